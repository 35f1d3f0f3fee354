# SPDX-License-Identifier: Apache-2.0
"""Means of a study's row over its seeds, and how far it is above its reference.

A row is what a results file holds of one thing that was tried: a seed's figures by the seed's
number. Knows no study and no table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

NORMAL_95 = 1.96
Row = dict[str, Any]
Seed = dict[str, Any]
NO_PAIR = (None, None)
"""A difference and its error where there is none."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and the half-width of its 95 % interval; NaN where it is not known."""

    mean: float
    half: float

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        return f"{self.mean:+.4f}" + ("" if math.isnan(self.half) else f" ± {self.half:.4f}")

    def __neg__(self) -> Interval:
        return Interval(-self.mean, self.half)

    @property
    def clear_of_zero(self) -> bool:
        """Whether the interval leaves zero out."""
        return abs(self.mean) > self.half

    @property
    def marked(self) -> str:
        """In Markdown: bold where it is clear of zero."""
        return f"**{self}**" if self.clear_of_zero else str(self)


def difference(row: Row, task: str, kind: str = "difference") -> Interval:
    """The row's AUC above its reference's, over seeds.

    `kind` "within_difference" is within a member's day. See `mean_difference`.
    """
    return mean_difference([row], task, kind)


def mean_difference(rows: Sequence[Row], task: str, kind: str = "difference") -> Interval:
    """The mean of several tests' differences over the seeds that all of them have.

    The variance has two parts. Which members are in a test: that of the mean, where
    `add_differences` drew them once for all seeds, and independent from test to test. And the
    seed, which averages out.
    """
    seeds = sorted(set.intersection(*(set(row["seeds"]) for row in rows))) if rows else []
    each = [[row["seeds"][seed].get(kind, {}).get(task, NO_PAIR) for row in rows] for seed in seeds]
    known = [pairs for pairs in each if not any(None in pair for pair in pairs)]
    if not known:
        return Interval(math.nan, math.nan)
    means = [mean([value for value, _ in pairs]) for pairs in known]
    members = mean([sum(error**2 for _, error in pairs) for pairs in known]) / len(rows) ** 2
    return Interval(mean(means), NORMAL_95 * math.sqrt(members + variance(means) / len(means)))


def metric(row: Row, task: str, name: str) -> float:
    """A metric's mean over the seeds; NaN where it is undefined."""
    return over_seeds(row, lambda seed: seed["tasks"][task][name])


def over_seeds(row: Row, value: Callable[[Seed], float | None]) -> float:
    """The mean of a value over the seeds; NaN where one has none."""
    values = [value(seed) for seed in row["seeds"].values()]
    known = [v for v in values if v is not None]
    return mean(known) if values and len(known) == len(values) else math.nan


def spread(row: Row, task: str) -> str:
    """The mean AUC and its standard deviation over seeds."""
    values = [seed["tasks"][task]["auc"] for seed in row["seeds"].values()]
    if None in values or not values:
        return "-"
    deviation = f" ± {math.sqrt(variance(values)):.4f}" if len(values) > 1 else ""
    return f"{mean(values):.4f}{deviation}"


def mean(values: Sequence[float]) -> float:
    """Of one value at least."""
    return sum(values) / len(values)


def variance(values: Sequence[float]) -> float:
    """Of a sample; zero for a single value, of which nothing is known."""
    if len(values) < 2:
        return 0.0
    middle = mean(values)
    return sum((v - middle) ** 2 for v in values) / (len(values) - 1)
