# SPDX-License-Identifier: Apache-2.0
"""The newcomer's way in: a log, two days of the loop, and one feed ranked by what they made.

It calls what the commands call, in order, and keeps nothing of its own; a demo that was stopped
goes on with the same command.
"""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from components.config import DailyConfig, config_name, load_config
from components.console import console
from components.layout.paths import Layout, absolute
from components.layout.writer import writing
from components.loop.daily import DayResult, daily
from components.registry import versions
from components.registry.note import RootNote

RUNS = Path("runs")


def demo(data: Path | None, days: int, root: Path | None, config: str = "") -> None:
    """Runs the demo.

    Args:
        data: a folder of KuaiRand's files or your own Parquet; None simulates.
        days: simulated days of log.
        root: the run's root; by default runs/demo, or runs/demo-<source> for a log.
        config: a shipped configuration's name or a JSON file; by default the data's own.

    Raises:
        ValueError: the data is no known log, or `root` holds another demo or has another writer.
        StepError: a step of the loop failed.
    """
    started, out = time.monotonic(), console()
    config, layout = _open(data, days, root, config)
    loaded = load_config(config)
    with writing(layout.root, "feedsr demo"):
        last_two = _log(layout, data, days, config, out)[-2:]
        out.print("[bold]Two days of the daily loop[/bold], through Kubeflow's local runner")
        results = [daily(layout, day, config) for day in last_two]
    if versions.current(layout) is None:
        raise ValueError(
            f"the gate let no model through, so there is nothing to serve; {results[-1].report} "
            "says why"
        )
    _show_feed(layout, loaded, out)
    _closing(results, layout, time.monotonic() - started)


def _open(data: Path | None, days: int, root: Path | None, config: str) -> tuple[str, Layout]:
    """The configuration's name and the root; refuses a root that holds another demo."""
    name, what = "demo", f"{days} simulated days"
    if data is not None:
        from components.log.sources import detect_source

        source = detect_source(data)
        config = config or source.spec_name or ""
        name, what = f"demo-{source.name}", str(absolute(data))
    layout = Layout.at(root or RUNS / name)
    note = RootNote.in_root(layout)
    log = note.log if note else None
    if log != what and (note or layout.impression_days()):
        raise ValueError(
            f"{layout.root} holds a run on {log or 'another log'}: remove it (make clean "
            "removes the demo's) or choose another --root"
        )
    config = config or "demo"
    load_config(config)
    return config_name(config), layout


def _log(layout: Layout, data: Path | None, days: int, config: str, out: Console) -> list[str]:
    """Brings the log where that was not done, notes the configuration, and returns the days."""
    what = f"{days} simulated days" if data is None else str(absolute(data))
    if RootNote.in_root(layout) is None:
        counts = (
            _simulate(layout, days, out) if data is None else _import(layout, data, config, out)
        )
        out.print(f"  {counts}")
    RootNote(config=config, log=what).write(RootNote.path(layout))
    raw = layout.raw_days()
    if len(raw) < 3:
        raise ValueError(
            f"the log of {what} has {len(raw)} days ({', '.join(raw)}): two days of the loop "
            "and one to train on before them are three"
        )
    return raw


def _simulate(layout: Layout, days: int, out: Console) -> str:
    from components.log.sources import SimulatorConfig, simulate

    out.print(f"[bold]A simulated feed[/bold] of {days} days, with known truth")
    counts = simulate(layout, SimulatorConfig(days=days))
    return f"{counts.impressions:,} impressions of {counts.members:,} members"


def _import(layout: Layout, data: Path, config: str, out: Console) -> str:
    from components.log.sources import detect_source

    out.print(f"[bold]The log[/bold] in {escape(str(data))}")
    counts = detect_source(data).load(absolute(data), layout, load_config(config).spec)
    return f"{counts.impressions:,} impressions of {counts.members:,} members"


def _show_feed(layout: Layout, config: DailyConfig, out: Console) -> None:
    """Ranks one member's feed through the predictor."""
    from components.loop import serve as ranking

    out.print("[bold]One feed[/bold], through transformer and predictor on loopback")
    ranking.render_table(ranking.rank(layout, config, None))


def _closing(results: list[DayResult], layout: Layout, seconds: float) -> None:
    out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    for result in results:
        out.print(f"{result.day}: the gate {result.verdict} the model, report {result.report}")
    out.print(f"{versions.current(layout)} is in production; {seconds:.0f} s in all")
