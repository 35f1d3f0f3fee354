# SPDX-License-Identifier: Apache-2.0
"""A day that kept nothing is told with its tally; one that kept a row is not told at all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from components.layout.paths import Layout
from components.log.counts import IngestCounts, TableCounts, refuse_nothing, total

DAY = "2026-02-03"
NONE = TableCounts(read=0, kept=0, duplicates=0, replaced=0, quarantined={})


def test_counts_of_two_parts_are_added() -> None:
    one = TableCounts(read=5, kept=1, duplicates=1, replaced=1, quarantined={"b": 2})
    other = TableCounts(read=4, kept=1, duplicates=0, replaced=0, quarantined={"a": 1, "b": 2})
    both = TableCounts(read=9, kept=2, duplicates=1, replaced=1, quarantined={"a": 1, "b": 4})
    assert one + other == both
    assert list((one + other).quarantined) == ["a", "b"]
    assert one + NONE == one


def counted(kept: int, duplicates: int, **quarantined: int) -> IngestCounts:
    """A day with these counts."""
    return IngestCounts(
        day=DAY,
        read=kept + duplicates + sum(quarantined.values()),
        kept=kept,
        duplicates=duplicates,
        quarantined=quarantined,
        late=0,
        untimed=0,
        unknown_posts=0,
        unknown_members=0,
        sessions=kept,
        ignored_columns=[],
        posts=NONE,
        members=NONE,
    )


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.at(tmp_path)


def test_one_kept_row_is_enough(layout: Layout) -> None:
    refuse_nothing(layout, counted(1, 5, late=7))


def test_the_sentence_of_a_day_of_duplicates(layout: Layout) -> None:
    with pytest.raises(ValueError, match="no row of") as error:
        refuse_nothing(layout, counted(0, 1234))
    assert str(error.value) == (
        f"no row of {DAY} was kept: 1,234 read, 1,234 duplicates of earlier rows; "
        "choose another day, or bring a log with new rows"
    )


def test_the_most_frequent_reason_comes_first_and_then_the_first_name(layout: Layout) -> None:
    tally = f"7 refused (c: 3; a: 2; b: 2); look at {layout.quarantine_day(DAY)}, mend the log"
    with pytest.raises(ValueError, match=re.escape(tally)):
        refuse_nothing(layout, counted(0, 0, b=2, a=2, c=3))


def test_a_day_without_rows_has_none_to_tell_of(layout: Layout) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{layout.raw_day(DAY)} holds no rows")):
        refuse_nothing(layout, counted(0, 0))


def test_days_are_summed_count_by_count() -> None:
    days = [counted(3, 2, a=1, b=4), counted(5, 0, a=2)]
    assert total(days) == {"read": 17, "kept": 8, "duplicates": 2, "quarantined": 7}
    assert set(total([]).values()) == {0}
