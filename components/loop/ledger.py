# SPDX-License-Identifier: Apache-2.0
"""Which days a step has covered, and from which state of its input.

A first run backfills every day, a killed one goes on where it stopped, and a day whose input was
written anew is done again, with every later day, because each day builds on those before. It knows
files by their time and size; it never reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from components.layout.stamps import Stamp, stamp
from components.registry.json_record import Record

T = TypeVar("T")


class Covered(Record):
    """The days that are covered, with the state of each one's input then."""

    remedy = "remove it: every day is done again then"

    key: str
    days: dict[str, Stamp]


class Ledger:
    """The days one step has covered.

    Args:
        path: the JSON file that is kept.
        key: what the outputs depend on beside their inputs (the spec's hash); another key and
            nothing counts as covered.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        kept = Covered.read(path) if path.is_file() else None
        self.days = kept.days if kept and kept.key == key else {}

    def stale(self, inputs: Mapping[str, Path], day: str) -> list[str]:
        """The days up to `day` that must be done, in order: from the first that is new or changed.

        `day` itself is always among them, so that a repeated run repairs what was lost.
        """
        days = sorted(d for d in inputs if d <= day)
        for place, earlier in enumerate(days):
            if earlier == day or self.days.get(earlier) != stamp(inputs[earlier]):
                return days[place:]
        return []

    def cover(
        self, days: Sequence[str], inputs: Mapping[str, Path], step: Callable[[str], T]
    ) -> dict[str, T]:
        """Runs `step` on each day, noting each as it is done, and returns what it gave.

        Later days that were built on another state of a day are no longer covered.
        """
        results = {}
        for day in days:
            written = stamp(inputs[day])
            results[day] = step(day)
            if self.days.get(day) != written:
                self.days = {d: s for d, s in self.days.items() if d < day}
            self.days[day] = written
            Covered(key=self.key, days=self.days).write(self.path)
        return results
