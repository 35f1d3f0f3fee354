# SPDX-License-Identifier: Apache-2.0
"""What became of a day's rows, in numbers: what ingest writes of a day, and what is read of it.

This module knows nothing of how a row is judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from components.layout.paths import Layout


@dataclass(frozen=True, kw_only=True)
class TableCounts:
    """What became of the rows of the raw posts or members table; `replaced` by a later row."""

    read: int
    kept: int
    duplicates: int
    replaced: int
    quarantined: dict[str, int]

    def __add__(self, other: TableCounts) -> TableCounts:
        """Those of two parts of a table together."""
        return TableCounts(
            read=self.read + other.read,
            kept=self.kept + other.kept,
            duplicates=self.duplicates + other.duplicates,
            replaced=self.replaced + other.replaced,
            quarantined=added(self.quarantined, other.quarantined),
        )


@dataclass(frozen=True, kw_only=True)
class IngestCounts:
    """What became of a raw day's rows: read = kept + duplicates + all quarantined.

    Attributes:
        quarantined: rows by reason.
        late: kept rows served on an earlier local day than they arrived.
        untimed: kept rows whose order is known and time is not.
        unknown_posts: kept rows whose post has no content.
        unknown_members: kept rows whose member has no profile.
        sessions: distinct sessions among the kept rows.
        ignored_columns: columns of the raw files that the spec does not name.
    """

    day: str
    read: int
    kept: int
    duplicates: int
    quarantined: dict[str, int]
    late: int
    untimed: int
    unknown_posts: int
    unknown_members: int
    sessions: int
    ignored_columns: list[str]
    posts: TableCounts
    members: TableCounts


def added(some: dict[str, int], others: dict[str, int]) -> dict[str, int]:
    """Numbers by name, those of one name added."""
    return dict(sorted((Counter(some) + Counter(others)).items()))


def total(days: Iterable[IngestCounts]) -> dict[str, int]:
    """What became of the rows of several days together, by name."""
    sums = dict.fromkeys(("read", "kept", "duplicates", "quarantined"), 0)
    for counts in days:
        sums["read"] += counts.read
        sums["kept"] += counts.kept
        sums["duplicates"] += counts.duplicates
        sums["quarantined"] += sum(counts.quarantined.values())
    return sums


def refuse_nothing(layout: Layout, counts: IngestCounts) -> None:
    """ValueError, with the tally, where a day kept no row: no model can be judged by it.

    A day between others may be quiet: only the one that a run is for must hold something.
    """
    if counts.kept:
        return
    if not counts.read:
        raise ValueError(
            f"{layout.raw_day(counts.day)} holds no rows: there is nothing of {counts.day} to "
            "rank; choose another day, or bring the log again"
        )
    parts = [f"{counts.read:,} read", f"{counts.duplicates:,} duplicates of earlier rows"]
    refused = sorted(counts.quarantined.items(), key=lambda item: (-item[1], item[0]))
    if refused:
        tally = "; ".join(f"{reason}: {count:,}" for reason, count in refused)
        parts.append(f"{sum(count for _, count in refused):,} refused ({tally})")
        where = f"; look at {layout.quarantine_day(counts.day)}, mend the log and bring it again"
    else:
        where = "; choose another day, or bring a log with new rows"
    raise ValueError(f"no row of {counts.day} was kept: {', '.join(parts)}{where}")
