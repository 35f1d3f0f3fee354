# SPDX-License-Identifier: Apache-2.0
"""A day that kept nothing is told with its tally; one that kept a row is not told at all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from components.layout.files import write_json
from components.layout.paths import Layout
from components.log.counts import refuse_nothing

DAY = "2026-02-03"


def counted(root: Path, kept: int, duplicates: int, **quarantined: int) -> Layout:
    """A root whose day has these counts."""
    layout = Layout.at(root)
    read = kept + duplicates + sum(quarantined.values())
    counts = {"read": read, "kept": kept, "duplicates": duplicates, "quarantined": quarantined}
    write_json(layout.ingest_counts(DAY), counts)
    return layout


def test_one_kept_row_is_enough(tmp_path: Path) -> None:
    refuse_nothing(counted(tmp_path, 1, 5, late=7), DAY)


def test_the_sentence_of_a_day_of_duplicates(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no row of") as error:
        refuse_nothing(counted(tmp_path, 0, 1234), DAY)
    assert str(error.value) == (
        f"no row of {DAY} was kept: 1,234 read, 1,234 duplicates of earlier rows; "
        "choose another day, or bring a log with new rows"
    )


def test_the_most_frequent_reason_comes_first_and_then_the_first_name(tmp_path: Path) -> None:
    layout = counted(tmp_path, 0, 0, b=2, a=2, c=3)
    tally = f"7 refused (c: 3; a: 2; b: 2); look at {layout.quarantine_day(DAY)}, mend the log"
    with pytest.raises(ValueError, match=re.escape(tally)):
        refuse_nothing(layout, DAY)


def test_a_day_without_rows_has_none_to_tell_of(tmp_path: Path) -> None:
    layout = counted(tmp_path, 0, 0)
    with pytest.raises(ValueError, match=re.escape(f"{layout.raw_day(DAY)} holds no rows")):
        refuse_nothing(layout, DAY)
