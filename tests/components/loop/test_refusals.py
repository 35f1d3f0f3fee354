# SPDX-License-Identifier: Apache-2.0
"""A run that cannot come to anything is refused before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.layout.paths import Layout
from components.loop.refusals import refuse_day_without_log, refuse_first_day, refuse_other_log

DAYS = ["2026-01-04", "2026-01-05", "2026-01-07"]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout.at(tmp_path)
    for day in DAYS:
        made.raw_day(day).parent.mkdir(parents=True)
        made.raw_day(day).touch()
    return made


def test_a_day_without_a_log_says_which_days_there_are(layout: Layout, tmp_path: Path) -> None:
    for day in DAYS:
        refuse_day_without_log(layout, day)
    with pytest.raises(ValueError, match=r"no log of 2026-01-06 .*: have 2026-01-04 to 2026-01-07"):
        refuse_day_without_log(layout, "2026-01-06")
    with pytest.raises(ValueError, match="there is no log yet"):
        refuse_day_without_log(Layout.at(tmp_path / "new"), DAYS[0])


def test_the_first_day_and_those_before_it_have_nothing_to_train_on() -> None:
    refuse_first_day(DAYS, DAYS[1])
    for day in ("2026-01-03", DAYS[0]):
        with pytest.raises(ValueError, match=f"{day} is the first day of the log"):
            refuse_first_day(DAYS, day)


def test_impressions_that_no_log_has_are_of_another_log(layout: Layout) -> None:
    for day in DAYS[:2]:
        layout.impressions_day(day).parent.mkdir(parents=True)
        layout.impressions_day(day).touch()
    refuse_other_log(layout)
    layout.raw_day(DAYS[1]).unlink()
    with pytest.raises(ValueError, match=f"holds impressions of {DAYS[1]} that its log no longer"):
        refuse_other_log(layout)
