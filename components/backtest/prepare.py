# SPDX-License-Identifier: Apache-2.0
"""A backtest's shards: any log is imported, ingested and cut in time, each stage once.

A stage is skipped when the same inputs and the same code made its output before, so a backtest
that is killed or repeated with other rankers goes on where it was. It trains nothing and scores
nothing.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.backtest.shards import ShardPlan, write_test, write_train
from components.backtest.split import LogSplit, simulator_config
from components.backtest.stages import Stages
from components.config import PROFILES, DailyConfig, load_config
from components.console import progress
from components.layout.files import digest
from components.layout.paths import Layout, absolute
from components.log.counts import total
from components.log.ingest import ingest
from components.log.sources import detect_source, simulate
from feature_repo.spec import Spec


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The shards of a split, and what was counted and timed on the way to them."""

    train: Path
    test: Path
    stages: dict[str, Any]


def config_for(split: LogSplit, name: str) -> DailyConfig:
    """The configuration of that name, or the shipped one for the kind of log.

    Raises:
        ValueError: the log's kind has no configuration of its own and none was named.
    """
    if name:
        return load_config(name)
    for config in PROFILES.values():
        if config.spec_name == split.kind:
            return config
    raise ValueError(
        f"{split.data} is a log of your own: name the configuration whose spec its columns follow"
    )


def default_work(split: LogSplit) -> Path:
    """Where a log's backtests keep their files when no folder was named."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", Path(split.data).name).strip("-").lower() or "log"
    return Path("runs") / "backtest" / f"{name}-{digest(str(absolute(split.data)), 8)}"


def prepare(
    split: LogSplit, work: Path, config: DailyConfig, after_day: str | None = None
) -> Prepared:
    """Brings a log as far as shards, skipping what is already there.

    Args:
        split: the log, and where it is cut.
        work: the folder of all files made on the way.
        config: says the spec, and how fresh features and histories are.
        after_day: a warm start's watermark; see `ShardPlan`.

    Raises:
        ValueError: the log, a date or a number is wrong; one sentence.
    """
    layout = Layout.at(work)
    stages = Stages(layout.root / "stages")
    plan = ShardPlan(split=split, spec=config.spec, freshness=config.freshness, after_day=after_day)
    _bring_in(split, layout, config, stages)
    _check_dates(layout, split)
    train = layout.sequences("train", plan.train_name)
    test = layout.sequences("test", plan.test_name)
    for folder, write in ((train, write_train), (test, write_test)):
        inputs = [stages.done["ingest"], folder.name]
        writing = partial(write, layout, folder, plan)
        stages.run(folder.name, inputs, writing, code=write.__module__)
    return Prepared(train=train, test=test, stages=stages.values)


def _bring_in(split: LogSplit, layout: Layout, config: DailyConfig, stages: Stages) -> None:
    """Imports and ingests the whole log."""
    load, check = partial(_import, split, layout, config.spec), partial(_ingest, layout, config)
    stages.run("import", _contents(split, config.spec), load, code=detect_source.__module__)
    stages.run("ingest", stages.done["import"], check, code=ingest.__module__)


def _contents(split: LogSplit, spec: Spec) -> dict[str, Any]:
    """What a log is told apart by: its files' names, sizes and times, and the spec."""
    if split.is_simulated:
        return {"data": split.data, "spec": spec.hash}
    folder = absolute(split.data)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    listed = [(str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return {"files": listed, "spec": spec.hash}


def _import(split: LogSplit, layout: Layout, spec: Spec) -> dict[str, Any]:
    """Writes `raw/`, and removes what was ingested from another log."""
    for name in ("impressions", "ingest", "quarantine"):
        shutil.rmtree(layout.root / name, ignore_errors=True)
    if split.is_simulated:
        counts = simulate(layout, simulator_config(split.data))
    else:
        counts = detect_source(split.data).load(absolute(split.data), layout, spec)
    return {"impressions": counts.impressions, "days": list(counts.days)}


def _ingest(layout: Layout, config: DailyConfig) -> dict[str, Any]:
    """Ingests every day, and counts over all of them."""
    days, counts = layout.raw_days(), []
    with progress("ingest, days", len(days)) as advance:
        for day in days:
            counts.append(ingest(layout, day, config))
            advance()
    return total(counts)


def _check_dates(layout: Layout, split: LogSplit) -> None:
    days = layout.impression_days()
    if not days or split.train_before <= days[0] or split.test_through > days[-1]:
        span = f"{days[0]} to {days[-1]}" if days else "no day"
        raise ValueError(
            f"the log holds {span}: choose days so that some are before {split.train_before} to "
            f"train on, and {split.test_through} is not after the last"
        )
