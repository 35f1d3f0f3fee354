# SPDX-License-Identifier: Apache-2.0
"""A backtest's shards: any log is imported, ingested and cut in time, each stage once.

A stage is skipped when the same inputs and the same code made its output before, so a backtest
that is killed or repeated with other rankers goes on where it was. It trains nothing and scores
nothing.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.backtest.split import Split, write_test, write_train
from components.backtest.stages import Stages
from components.config import PROFILES, DailyConfig, load_config
from components.console import progress
from components.layout.paths import Layout, absolute
from components.log.ingest import ingest
from components.log.sources import SimulatorConfig, detect_source, simulate
from feature_repo.spec import Spec
from model.config import first_fault

SIMULATED = "sim:"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The shards of a split, and what was counted and timed on the way to them."""

    train: Path
    test: Path
    stages: dict[str, Any]


def config_for(data: str, name: str) -> DailyConfig:
    """The configuration of that name, or the shipped one for the kind of log that `data` holds.

    Raises:
        ValueError: the log's kind has no configuration of its own and none was named.
    """
    if name:
        return load_config(name)
    wanted = "simulator" if data.startswith(SIMULATED) else detect_source(data).spec_name
    for config in PROFILES.values():
        if config.spec_name == wanted:
            return config
    raise ValueError(
        f"{data} is a log of your own: name the configuration whose spec its columns follow"
    )


def prepare(data: str, work: Path, split: Split, config: DailyConfig) -> Prepared:
    """Brings a log as far as shards, skipping what is already there.

    Args:
        data: a folder that a source knows, or "sim:<impressions>[,<name>=<value>...]".
        work: the folder of all files made on the way.
        split: where to cut.
        config: the run's configuration; its freshness is the split's.

    Raises:
        ValueError: the log, a date or a number is wrong; one sentence.
    """
    layout = Layout.at(work)
    stages = Stages(layout.root / "stages")
    described = _describe(data, config.spec)
    stages.run(
        "import",
        described,
        lambda: _import(data, layout, config.spec),
        code=detect_source.__module__,
    )
    stages.run(
        "ingest", stages.done["import"], lambda: _ingest(layout, config), code=ingest.__module__
    )
    _check_dates(layout, split)
    newer = f"-after-{split.after_day}" if split.after_day else ""
    train = layout.sequences("train", f"{split.train_before}-{split.freshness}{newer}")
    days = f"{split.train_before}-{split.test_through}"
    test = layout.sequences("test", f"{days}-{split.freshness}")
    for folder, write in ((train, write_train), (test, write_test)):
        inputs = [stages.done["ingest"], folder.name]
        stages.run(
            folder.name, inputs, partial(write, layout, folder, split), code=write.__module__
        )
    return Prepared(train=train, test=test, stages=stages.values)


def _describe(data: str, spec: Spec) -> dict[str, Any]:
    """What a log is told apart by: its files' names, sizes and times, and the spec."""
    if data.startswith(SIMULATED):
        return {"data": data, "spec": spec.hash}
    folder = absolute(data)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    listed = [(str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return {"files": listed, "spec": spec.hash}


def _import(data: str, layout: Layout, spec: Spec) -> dict[str, Any]:
    """Writes `raw/`, and removes what was ingested from another log."""
    for name in ("impressions", "ingest", "quarantine"):
        shutil.rmtree(layout.root / name, ignore_errors=True)
    if data.startswith(SIMULATED):
        counts = simulate(layout, simulated(data))
    else:
        counts = detect_source(data).load(absolute(data), layout, spec)
    return {"impressions": counts.impressions, "days": list(counts.days)}


def simulated(data: str) -> SimulatorConfig:
    """The configuration that "sim:<impressions>[,<name>=<value>...]" stands for.

    Raises:
        ValueError: it has another form, or the simulator has no such value.
    """
    number, *others = data.removeprefix(SIMULATED).split(",")
    pairs = [other.partition("=") for other in others]
    if not number.isdecimal() or not all(sign for _, sign, _ in pairs):
        raise ValueError(
            f"{data!r} is no simulated log: write sim: and how many impressions, then maybe values "
            "of the simulator, as in sim:60000,ranked=1"
        )
    try:
        return SimulatorConfig.model_validate(
            {"impressions": number, **{name: value for name, _, value in pairs}}
        )
    except ValidationError as error:
        raise ValueError(f"{data!r} is no simulated log: {first_fault(error)}") from error


def _ingest(layout: Layout, config: DailyConfig) -> dict[str, Any]:
    days = layout.raw_days()
    totals = {"read": 0, "kept": 0, "duplicates": 0, "quarantined": 0}
    with progress("ingest, days", len(days)) as advance:
        for day in days:
            counts = ingest(layout, day, config)
            totals["read"] += counts.read
            totals["kept"] += counts.kept
            totals["duplicates"] += counts.duplicates
            totals["quarantined"] += sum(counts.quarantined.values())
            advance()
    return totals


def _check_dates(layout: Layout, split: Split) -> None:
    days = layout.impression_days()
    if not days or split.train_before <= days[0] or split.test_through > days[-1]:
        span = f"{days[0]} to {days[-1]}" if days else "no day"
        raise ValueError(
            f"the log holds {span}: choose days so that some are before {split.train_before} to "
            f"train on, and {split.test_through} is not after the last"
        )
