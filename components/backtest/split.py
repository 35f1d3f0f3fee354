# SPDX-License-Identifier: Apache-2.0
"""Where a backtest cuts a log in time, and the shards of both sides of the cut.

It trains nothing and scores nothing. The columns of the log that counters read are held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from components.features.context import AsOfContext
from components.features.counters import counted_query
from components.layout.paths import Layout
from components.log.columns import column
from components.log.impressions import ImpressionLog, read_members
from components.training.sequences import TARGET, Cut, Loss, mark_loss, write_sequences
from feature_repo.spec import Freshness, Spec

Mark = Callable[[pa.Table], Iterable[Loss]]
"""The losses to build sequences with, one after the other."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Where a backtest cuts the log: train on days before one, rank the days from it on.

    Attributes:
        after_day: a warm start's watermark: only what is newer is trained on, the older is looked
            at; None is a cold start.

    Raises:
        ValueError: a date is none, or the test ends before it begins.
    """

    train_before: str
    test_through: str
    freshness: Freshness
    spec: Spec
    after_day: str | None = None

    def __post_init__(self) -> None:
        if self.spec.day_number(self.test_through) < self.spec.day_number(self.train_before):
            raise ValueError(
                f"the test ends on {self.test_through}, before it begins on {self.train_before}"
            )
        self.spec.cutoff(np.zeros(0, np.int64), self.freshness)

    @property
    def train_through(self) -> str:
        """The last day that is trained on."""
        return self.spec.day_name(self.spec.day_number(self.train_before) - 1)

    @property
    def test_days(self) -> range:
        """The local day numbers that are ranked."""
        return range(
            self.spec.day_number(self.train_before), self.spec.day_number(self.test_through) + 1
        )


def write_train(layout: Layout, folder: Path, split: Split) -> dict[str, Any]:
    """Shards of everything newer than the watermark that had arrived before the split."""

    def mark(events: pa.Table) -> list[Loss]:
        return [mark_loss(events, split.spec, split.after_day, split.train_through)]

    return _write(layout, folder, split, mark, split.train_through)


def write_test(layout: Layout, folder: Path, split: Split) -> dict[str, Any]:
    """Shards of the days that are ranked, a sequence for each member and day.

    Labels come from the whole log; what a row knew is cut by its own cutoff.
    """

    def mark(events: pa.Table) -> Iterator[Loss]:
        day = split.spec.day(column(events, "event_time"))
        timed = column(events, "timed").astype(np.bool_)
        for number in split.test_days:
            yield np.where(timed & (day == number), TARGET, 0).astype(np.int8)

    return _write(layout, folder, split, mark, None)


def _write(
    layout: Layout, folder: Path, split: Split, mark: Mark, through: str | None
) -> dict[str, Any]:
    """Writes the marked impressions of a log through a day: before the test, or of the whole of it,
    where a sequence holds the window of its first target.
    """
    cut = Cut(
        mark=mark,
        freshness=split.freshness,
        cap=through is not None and split.after_day is None,
        as_of_ms=split.spec.day_end(split.train_through),
    )
    with ImpressionLog(layout, through or layout.impression_days()[-1]) as log:
        counted = log.query(counted_query(split.spec))
        context = AsOfContext(counted, read_members(layout), split.spec, split.freshness)
        counts = write_sequences(log, cut, context, folder)
    if not counts.targets:
        raise ValueError(f"the log holds no timed impression in the days of {folder.name}")
    return vars(counts)
