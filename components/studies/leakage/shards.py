# SPDX-License-Identifier: Apache-2.0
"""The shards that a leakage study trains and scores on: as they are, cut, and of completed days.

It trains nothing and scores nothing; each cut is a stage that is done once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.backtest.prepare import Prepared, prepare
from components.backtest.split import LogSplit
from components.backtest.stages import Stages
from components.config import DailyConfig
from components.layout.files import digest
from components.layout.paths import Layout
from components.studies.leakage.cut import SessionCut, write_cut
from kernels.loader.checksums import CHECKSUMS


@dataclass(frozen=True, kw_only=True)
class LeakageShards:
    """The folders that rankers are trained and scored on.

    Attributes:
        uncut: each impression knows everything before it.
        cut: each knows what was known when its session began.
        history: the test, cut in `known` alone.
        day: each knows completed days alone.
        counts: of the cut test; see `write_cut`.
    """

    uncut: Prepared
    cut: Prepared
    history: Path
    day: Prepared
    counts: dict[str, int]


def day_config(config: DailyConfig) -> DailyConfig:
    """The configuration with freshness "day"."""
    return config.model_copy(update={"freshness": "day"})


def prepare_shards(
    split: LogSplit, work: Path, config: DailyConfig, cut: SessionCut
) -> LeakageShards:
    """Brings a log as far as all shards of the study, skipping what is already there.

    Args:
        split: the log, and where it is cut in time.
        work: the folder of all files made on the way.
        config: of freshness "immediate".
        cut: how sessions are told apart.

    Raises:
        ValueError: the log, a date or a number is wrong; one sentence.
    """
    day, uncut = prepare(split, work, day_config(config)), prepare(split, work, config)
    layout = Layout.at(work)
    stages = Stages(layout.root / "stages")
    train = cut_stage(stages, layout, uncut.train, cut, split.train_through)
    test = cut_stage(stages, layout, uncut.test, cut, layout.impression_days()[-1])
    return LeakageShards(
        uncut=uncut,
        cut=Prepared(train=train, test=test, stages=stages.values),
        history=cut_stage(stages, layout, uncut.test, cut, None),
        day=day,
        counts=stages.values[test.name],
    )


def cut_stage(
    stages: Stages, layout: Layout, source: Path, cut: SessionCut, counters_through: str | None
) -> Path:
    """Cuts a folder of shards unless these very shards were cut by this very code before.

    Counters are cut too where a last day of the log is given for them.
    """
    kind = "history" if counters_through is None else "cut"
    target = source.with_name(f"{source.name}-{kind}-{cut.sessions}")

    def work() -> dict[str, Any]:
        if counters_through is None:
            return write_cut(source, target, replace(cut, counted=None))
        return write_cut(source, target, cut.with_counters(layout, counters_through))

    shards = digest((source / CHECKSUMS).read_bytes(), 64)
    stages.run(target.name, shards, work, code=write_cut.__module__)
    return target
