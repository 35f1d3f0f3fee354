# SPDX-License-Identifier: Apache-2.0
"""The shards of both sides of a split: what is trained on, and what is ranked.

It trains nothing and scores nothing. The columns of the log that counters read are held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from components.backtest.split import LogSplit
from components.features.context import AsOfContext
from components.features.counters import counted_query
from components.layout.paths import Layout
from components.log.columns import column
from components.log.impressions import ImpressionLog, read_members
from components.training.sequences import Cut, Work, write_sequences
from components.training.windows import Loss, WholeLogs, mark_loss
from feature_repo.spec import Freshness, Spec
from kernels.loader import TARGET

Mark = Callable[[pa.Table], Iterable[Loss]]
"""The losses to build sequences with, one after the other."""


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """What the shards of a split are made of.

    Attributes:
        split: the days of both sides.
        spec: the features.
        freshness: how late features and histories are.
        after_day: a warm start's watermark: only what is newer is trained on, the older is looked
            at; None is a cold start.

    Raises:
        ValueError: there is no such freshness.
    """

    split: LogSplit
    spec: Spec
    freshness: Freshness
    after_day: str | None = None

    def __post_init__(self) -> None:
        self.spec.cutoff(np.zeros(0, np.int64), self.freshness)

    @property
    def train_name(self) -> str:
        """What tells the shards of the training side from others of the log."""
        newer = f"-after-{self.after_day}" if self.after_day else ""
        return f"{self.split.train_before}-{self.freshness}{newer}"

    @property
    def test_name(self) -> str:
        """What tells the shards of the ranked side from others of the log."""
        return f"{self.split.train_before}-{self.split.test_through}-{self.freshness}"


def write_train(layout: Layout, folder: Path, plan: ShardPlan) -> dict[str, Any]:
    """Shards of everything newer than the watermark that had arrived before the split."""
    through = plan.split.train_through

    def mark(impressions: pa.Table) -> list[Loss]:
        return [mark_loss(impressions, plan.spec, plan.after_day, through)]

    return _write(layout, folder, plan, mark, through)


def write_test(layout: Layout, folder: Path, plan: ShardPlan) -> dict[str, Any]:
    """Shards of the days that are ranked, a sequence for each member and day.

    Labels come from the whole log; what a row knew is cut by its own cutoff.
    """

    def mark(impressions: pa.Table) -> Iterator[Loss]:
        day = plan.spec.day(column(impressions, "event_time"))
        timed = column(impressions, "timed").astype(np.bool_)
        for name in plan.split.test_days:
            ranked = timed & (day == plan.spec.day_number(name))
            yield np.where(ranked, TARGET, 0).astype(np.int8)

    return _write(layout, folder, plan, mark, None)


def _write(
    layout: Layout, folder: Path, plan: ShardPlan, mark: Mark, through: str | None
) -> dict[str, Any]:
    """Writes the marked impressions of a log through a day, or of the whole of it.

    Of the whole of it, a sequence holds the window of its first target.
    """
    cut = Cut(
        mark=mark,
        freshness=plan.freshness,
        cap=through is not None and plan.after_day is None,
        as_of_ms=plan.spec.day_end(plan.split.train_through),
    )
    logs = WholeLogs(layout=layout, day=through or layout.impression_days()[-1], spec=plan.spec)
    with ImpressionLog(layout, logs.day) as log:
        counted = log.query(counted_query(plan.spec))
    context = AsOfContext(counted, read_members(layout), plan.spec, plan.freshness)
    counts = write_sequences(Work(logs, cut, lambda: context), folder, plan.spec.hash)
    if not counts.targets:
        raise ValueError(f"the log holds no timed impression in the days of {folder.name}")
    return vars(counts)
