# SPDX-License-Identifier: Apache-2.0
"""The unit of a column of times, at the ends of each unit's range, and the sentence about it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from components.log.columns import Ints
from components.log.times import UNITS, Span, Units, in_unit, limits
from feature_repo.values import SANE_MS

FIRST, BEYOND = 946_684_800, 4_102_444_800
"""2000-01-01 and 2100-01-01 in seconds."""
SCALES = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}


def ints(*values: int) -> Ints:
    return np.array(values, np.int64)


def units_of(*batches: tuple[int, ...]) -> Units:
    units = Units()
    for batch in batches:
        units.add(ints(*batch))
    return units


@pytest.mark.parametrize(("unit", "scale"), SCALES.items())
def test_each_unit_ends_where_the_century_does(unit: str, scale: int) -> None:
    low, high = limits(unit)
    assert (low, high) == (FIRST * scale, BEYOND * scale)
    ends = ints(low - 1, low, low + 1, high - 1, high, high + 1)
    assert in_unit(ends, unit).tolist() == [False, True, True, True, False, False]
    assert sorted(UNITS) == sorted(SCALES)
    for other in UNITS:
        if other != unit:
            assert not in_unit(ints(low, high - 1), other).any()


def test_milliseconds_are_the_sane_ones() -> None:
    assert limits("milliseconds") == SANE_MS


def test_numbers_are_counted_by_unit_over_batches() -> None:
    units = units_of((), (5, 1_700_000_000, 1_700_000_000_000), (1_600_000_000, -7), (2**63 - 1,))
    assert units.spans == {
        "": Span(3, -7, 2**63 - 1),
        "seconds": Span(2, 1_600_000_000, 1_700_000_000),
        "milliseconds": Span(1, 1_700_000_000_000, 1_700_000_000_000),
    }
    assert (units.wrong, units.count("seconds"), units.count("nanoseconds")) == (2, 2, 0)
    assert units.whole == Span(6, -7, 2**63 - 1)
    assert Units().whole is None
    assert Units().wrong == 0


MS, S, US = 1_700_000_000_000, 1_700_000_000, 1_700_000_000_000_000


@pytest.mark.parametrize(
    ("batches", "refused"),
    [
        ([()], ""),
        ([(MS,)], ""),
        ([(0, -1, 5, 2**62)], ""),
        ([(MS, S)], ""),
        ([(MS, S, S)], "seconds"),
        ([(S, MS), (S,)], "seconds"),
        ([(S, MS, US)], "seconds"),
        ([(S, MS, US, US)], "microseconds"),
        ([(MS, MS, S, US, US)], "microseconds"),
        ([(MS, MS, MS, S, US, US)], ""),
        ([(0, 0, 0, S)], "seconds"),
    ],
)
def test_a_column_is_refused_where_more_is_in_another_unit(
    batches: list[tuple[int, ...]], refused: str
) -> None:
    """Numbers that are times in no unit say nothing; as many of one as of the other do not do."""
    units = units_of(*batches)
    if not refused:
        units.check("t")
        return
    with pytest.raises(ValueError, match=f"read as {refused} it would be"):
        units.check("t")


@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        (
            (1_704_067_200, 1_706_832_000, 7),
            "log: event_time is 1704067200 to 1706832000 in 2 rows: read as milliseconds that is "
            "1970-01-20; read as seconds it would be 2024-01-01 to 2024-02-02; times are "
            "milliseconds since 1970 (UTC): multiply by 1,000 and bring the log again",
        ),
        (
            (1_704_067_200_000_001,),
            "log: event_time is 1704067200000001 in 1 row: read as "
            "milliseconds that is after the year 9999; read as microseconds it would be "
            "2024-01-01; times are milliseconds since 1970 (UTC): divide by 1,000 and bring the "
            "log again",
        ),
        (
            (1_704_067_200_000_000_000, 1_704_153_600_000_000_000),
            "log: event_time is 1704067200000000000 to 1704153600000000000 in 2 rows: read as "
            "milliseconds that is after the year 9999; read as nanoseconds it would be "
            "2024-01-01 to 2024-01-02; times are milliseconds since 1970 (UTC): divide by "
            "1,000,000 and bring the log again",
        ),
        (
            (1_690_000_000, 1_735_689_600),
            "log: event_time is 1690000000 to 1735689600 in 2 rows: read as milliseconds that is "
            "1970-01-20 to 1970-01-21; read as seconds it would be 2023-07-22 to 2025-01-01; "
            "times are milliseconds since 1970 (UTC): multiply by 1,000 and bring the log again",
        ),
    ],
)
def test_the_sentence(times: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as error:
        units_of(times).refuse("log: event_time")
    assert str(error.value) == sentence
