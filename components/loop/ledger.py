# SPDX-License-Identifier: Apache-2.0
"""Which days a step has covered, and from which state of its input.

A first run backfills every day, a killed one goes on where it stopped, and a day whose input was
written anew is done again, with every later day, because each day builds on those before. It knows
files by their time and size; it never reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from components.layout.files import write_json

Stamp = list[int]


class Ledger:
    """The days one step has covered.

    Args:
        path: the JSON file that is kept.
        key: what the outputs depend on beside their inputs (the spec's hash); another key and
            nothing counts as covered.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        kept = json.loads(path.read_text()) if path.is_file() else {}
        self.days: dict[str, Stamp] = kept["days"] if kept.get("key") == key else {}

    def stale(self, inputs: Mapping[str, Path], day: str) -> list[str]:
        """The days up to `day` that must be done, in order: from the first that is new or changed.

        `day` itself is always among them, so that a repeated run repairs what was lost.
        """
        days = sorted(d for d in inputs if d <= day)
        for index, one in enumerate(days):
            if one == day or self.days.get(one) != _stamp(inputs[one]):
                return days[index:]
        return []

    def cover(
        self, days: list[str], inputs: Mapping[str, Path], step: Callable[[str], object]
    ) -> None:
        """Runs `step` on each day, noting each as it is done.

        Later days that were built on another state of a day are no longer covered.
        """
        for one in days:
            stamp = _stamp(inputs[one])
            step(one)
            if self.days.get(one) != stamp:
                self.days = {d: s for d, s in self.days.items() if d < one}
            self.days[one] = stamp
            write_json(self.path, {"key": self.key, "days": self.days})


def _stamp(path: Path) -> Stamp:
    state = path.stat()
    return [state.st_mtime_ns, state.st_size]
