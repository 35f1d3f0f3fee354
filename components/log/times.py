# SPDX-License-Identifier: Apache-2.0
"""In which unit a log's times are written: milliseconds, or another that was meant for them.

A few such rows go to quarantine, each with its reason. Where they are the rule, a whole log would:
then the import stops and says so. What a time may be is `feature_repo.values`'.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import NoReturn

import numpy as np

from components.log.columns import Ints, Mask
from feature_repo.values import MILLISECONDS, SANE_MS, day_of

UNITS = ("milliseconds", *MILLISECONDS)
MENDED = {
    "seconds": "multiply by 1,000",
    "microseconds": "divide by 1,000",
    "nanoseconds": "divide by 1,000,000",
}


def limits(unit: str) -> tuple[int, int]:
    """The half-open range of the numbers that are times in one of `UNITS`."""
    low, high = (int(time / MILLISECONDS.get(unit, 1)) for time in SANE_MS)
    return low, high


def in_unit(times: Ints, unit: str) -> Mask:
    """Which numbers `[N]` are times in a unit; no number is in two."""
    low, high = limits(unit)
    return np.asarray((times >= low) & (times < high))


@dataclass(frozen=True)
class Span:
    """How many numbers were found, the lowest and the highest of them."""

    count: int
    low: int
    high: int

    def with_(self, other: Span) -> Span:
        """The two together."""
        return Span(self.count + other.count, min(self.low, other.low), max(self.high, other.high))


class Units:
    """What the numbers of a column would be as times, over as many batches as are added.

    `spans` is by unit, "milliseconds" among them; "" are the numbers that are times in none.
    """

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}

    def add(self, times: Ints) -> None:
        """Takes numbers `[N]`: no nulls, nor what stands for an unknown time."""
        left = np.ones(len(times), np.bool_)
        for unit in UNITS:
            fits = in_unit(times, unit)
            self._note(unit, times[fits])
            left &= ~fits
        self._note("", times[left])

    def _note(self, unit: str, times: Ints) -> None:
        if len(times):
            self.note(unit, Span(len(times), int(times.min()), int(times.max())))

    def note(self, unit: str, span: Span) -> None:
        """Takes numbers that are known to be of a unit."""
        self.spans[unit] = span.with_(self.spans[unit]) if unit in self.spans else span

    def count(self, unit: str) -> int:
        """How many are times in a unit."""
        return self.spans[unit].count if unit in self.spans else 0

    @property
    def wrong(self) -> int:
        """How many are times in another unit than milliseconds."""
        return sum(self.count(unit) for unit in MILLISECONDS)

    @property
    def whole(self) -> Span | None:
        """All numbers, whatever their unit; None where there is none."""
        return reduce(Span.with_, self.spans.values()) if self.spans else None

    def check(self, column: str) -> None:
        """ValueError where more are times in another unit than in milliseconds."""
        if self.wrong > self.count("milliseconds"):
            self.refuse(column)

    def refuse_all(self, column: str) -> None:
        """ValueError where some are times in another unit, and none is in milliseconds."""
        if self.wrong and not self.count("milliseconds"):
            self.refuse(column)

    def refuse(self, column: str) -> NoReturn:
        """ValueError: what a column is, read as milliseconds and in the unit that is most common.

        Raises:
            ValueError: always; `wrong` is not 0.
        """
        unit = max(MILLISECONDS, key=self.count)
        span = self.spans[unit]
        rows = "row" if span.count == 1 else "rows"
        raise ValueError(
            f"{column} is {_to(span.low, span.high)} in {span.count:,} {rows}: read as "
            f"milliseconds that is {_days(span)}; read as {unit} it would be "
            f"{_days(span, unit)}; times are milliseconds since 1970 (UTC): {MENDED[unit]} and "
            "bring the log again"
        )


def _days(span: Span, unit: str = "milliseconds") -> str:
    return _to(day_of(span.low, unit), day_of(span.high, unit))


def _to(first: object, last: object) -> str:
    return str(first) if first == last else f"{first} to {last}"
