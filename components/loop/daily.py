# SPDX-License-Identifier: Apache-2.0
"""One day of the loop on this machine: the pipeline object, run by Kubeflow's local runner.

The runner prints hundreds of lines; they go to runs/<day>/pipeline.log, and a person sees one line
per step. What a step does, and on which days, is not known here.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.live import Live
from rich.markup import escape
from rich.progress import Progress

from components.config import config_name, load_config
from components.console import bar_columns, console, parse_event
from components.layout.paths import Layout, path_without
from components.layout.writer import writing
from components.loop.errors import StepError
from components.loop.refusals import refuse_day_without_log, refuse_first_day
from components.loop.steps import ORDER, Values
from components.registry.run import Run

LABEL_WIDTH = max(map(len, ORDER)) + 1
PLACEHOLDER = "{{"
"""What Kubeflow puts a value of its own in place of, in any argument."""

THREAD_WAIT = "PASSIVE"
"""A step's threads sleep while they wait for one another, unless OMP_WAIT_POLICY says otherwise:
those that spin take the processor from whom they wait for where it has other work."""


@dataclass(frozen=True, kw_only=True)
class DayResult:
    """What a day's run came to.

    Attributes:
        verdict: "passed" or "refused", the gate's.
        version: the version that was registered and promoted; None if the gate refused.
        report: the day's HTML report.
        seconds: wall time of each step, by the step's name, in order.
    """

    day: str
    verdict: str
    version: str | None
    report: Path
    seconds: dict[str, float]


def daily(layout: Layout, day: str, config: str) -> DayResult:
    """Runs the loop for one day; running it again, also after a crash, ends in the same files.

    Args:
        layout: the run's root.
        day: the as-of day, YYYY-MM-DD.
        config: a shipped configuration's name or a JSON file.

    Raises:
        ValueError: a configuration that does not exist, a day that has no log or none before it,
            or another run writes into this root; nothing is written then.
        StepError: a step failed.
    """
    load_config(config).spec.day_number(day)
    refuse_day_without_log(layout, day)
    refuse_first_day(layout.raw_days(), day)
    config = config_name(config)
    day_run = Run(layout, day)
    with writing(layout.root, f"feedsr daily of {day}") as environment:
        day_run.folder.mkdir(parents=True, exist_ok=True)
        with (
            day_run.log.open("w", buffering=1) as file,
            Watch(day, file) as watch,
            _environment(
                FEEDSR_PROGRESS="events",
                OMP_WAIT_POLICY=os.environ.get("OMP_WAIT_POLICY", THREAD_WAIT),
                **environment,
            ),
        ):
            _run_pipeline(day_run, config, watch)
    passed = day_run.verdict.passed
    version = watch.values.get("promote", {}).get("version") if passed else None
    return DayResult(
        day=day,
        verdict="passed" if passed else "refused",
        version=str(version) if version else None,
        report=day_run.report,
        seconds=watch.seconds,
    )


def _run_pipeline(run: Run, config: str, watch: Watch) -> None:
    from kfp import local

    from components.loop.pipeline import daily_pipeline

    # The local runner warns of each thing that only a cluster needs: image, requests, GPU.
    warnings.filterwarnings("ignore", module=r"kfp\.local")
    artifacts = run.folder / "kfp"
    shutil.rmtree(artifacts, ignore_errors=True)
    with (
        path_without(PLACEHOLDER, str(run.layout.root)) as root,
        path_without(PLACEHOLDER, config) as chosen,
        contextlib.redirect_stdout(watch),
    ):
        local.init(
            runner=local.SubprocessRunner(use_venv=False),
            pipeline_root=str(Path(root) / artifacts.relative_to(run.layout.root)),
            raise_on_error=True,
        )
        try:
            daily_pipeline()(root=root, day=run.day, config=chosen)
        except RuntimeError as error:
            raise watch.failure() from error


class Watch(io.TextIOBase):
    """Standard output of the local runner: keeps it all in the log, shows one line per step."""

    def __init__(self, day: str, log: TextIO) -> None:
        self.values: dict[str, Values] = {}
        self.seconds: dict[str, float] = {}
        self._log, self._partial, self._failed = log, "", ""
        self._step: str | None = None
        self._bars = Progress(*bar_columns(), console=console())
        self._whole = self._bars.add_task(day.ljust(LABEL_WIDTH), total=len(ORDER))
        self._live = Live(self._bars, console=self._bars.console, transient=True)
        self._day = day

    def __enter__(self) -> Watch:
        self._bars.console.print(f"[bold]{self._day}[/bold]")
        if self._bars.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def writable(self) -> bool:
        """A stream that is written to."""
        return True

    def write(self, text: str) -> int:
        """Splits what arrives into lines; an event goes to the screen, the rest to the log."""
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            event = parse_event(line)
            if event is None:
                self._log.write(line + "\n")
            else:
                self._on_event(event)
        return len(text)

    def failure(self) -> StepError:
        """What to raise when the runner gave up."""
        step = self._step or "the pipeline"
        why = self._failed or f"{step} ended without a word (killed, or out of memory?)"
        where = Path(self._log.name)
        return StepError(f"{self._day}: {why} (log: {_short(where)})")

    def _on_event(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "progress":
            self._show_progress(event)
            return
        self._log.write(json.dumps(event) + "\n")
        self._clear_bars()
        if kind == "start":
            if not self._failed:
                self._step = event["step"]
            self._bars.add_task(event["step"].ljust(LABEL_WIDTH), total=None)
        elif kind == "end":
            self._on_end(event)
        elif kind == "failed" and not self._failed:
            self._failed = f"{event['step']}: {event['message']}"
            self._bars.console.print(f"  [red]✗[/red] {event['step']}")

    def _on_end(self, event: dict[str, Any]) -> None:
        step, values = event["step"], event["values"]
        self.values[step], self.seconds[step] = values, event["seconds"]
        self._bars.update(self._whole, completed=len(self.seconds))
        if self._step == step:
            self._step = None
        line = f"  [green]✓[/green] {step:<{LABEL_WIDTH}}{event['seconds']:6.1f} s  "
        self._bars.console.print(line + f"[dim]{escape(summary(step, values))}[/dim]")

    def _show_progress(self, event: dict[str, Any]) -> None:
        self._clear_bars()
        label = str(event["label"]).ljust(LABEL_WIDTH)
        self._bars.add_task(label, total=event["total"], completed=event["done"])

    def _clear_bars(self) -> None:
        """Removes the step's own bar; the day's stays."""
        for task in list(self._bars.task_ids):
            if task != self._whole:
                self._bars.remove_task(task)


def summary(step: str, values: Values) -> str:
    """What a step reported, as a few words."""
    if step == "ingest":
        counts = ", ".join(f"{values[k]:,} {k}" for k in ("read", "kept", "quarantined"))
        empty = f"; nothing of {values['empty']}" if values["empty"] else ""
        return f"{values['days']} days, {counts}{empty}; {values['plan']}"
    if step == "gate":
        return " - ".join(str(values[name]) for name in ("verdict", "because") if values[name])
    if step.startswith("train"):
        return "warm" if values["start"] else "cold"
    if step == "report":
        return _short(Path(str(values["report"]))) if values["report"] else "nothing to report"
    return ", ".join(f"{name} {value}" for name, value in values.items() if value != "")


def _short(path: Path) -> str:
    """A path as a person would type it from here."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Sets environment variables for the runner's subprocesses, and puts the old ones back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, old in before.items():
            os.environ.pop(name) if old is None else os.environ.update({name: old})
