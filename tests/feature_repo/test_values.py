# SPDX-License-Identifier: Apache-2.0
"""Which values a feature may have, at each limit and its two neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from feature_repo.kinds import Binary, Categorical, Embedding, HashedId, Kind, Numeric
from feature_repo.values import SANE_MS, day_of, fault, illegal, insane, unit_of

INF, NAN = np.inf, np.nan
CASES: list[tuple[Kind, str, list[Any], list[bool], str]] = [
    (
        HashedId(table="post", buckets=4, dim=2),
        "int64",
        [-(2**63), -2, -1, 0, 4, 2**63 - 1],
        [True, True, False, False, False, False],
        "is below -1",
    ),
    (
        Categorical(cardinality=4),
        "int32",
        [-(2**31), -2, -1, 0, 3, 4, 5, 2**31 - 1],
        [True, True, False, False, False, True, True, True],
        "is not in [-1, 4)",
    ),
    (
        Binary(),
        "int8",
        [-128, -2, -1, 0, 1, 2, 127],
        [True, True, False, False, False, True, True],
        "is not -1, 0 or 1",
    ),
    (
        Numeric(),
        "float32",
        [-INF, -1e30, 0.0, NAN, 1e30, INF],
        [True, False, False, False, False, True],
        "is infinite",
    ),
    (Numeric(transform="log1p"), "int32", [-1, 0, 2**31 - 1], [False] * 3, "is infinite"),
    (
        Embedding(dim=2),
        "float16",
        [[NAN, 0], [0, NAN], [0, 0], [-INF, 1], [65504, -65504], [1, INF]],
        [True, True, False, True, False, True],
        "is not finite",
    ),
]


@pytest.mark.parametrize(
    ("kind", "dtype", "values", "wrong", "words"),
    CASES,
    ids=[f"{type(c[0]).__name__}-{c[1]}" for c in CASES],
)
def test_the_limits_of_each_kind(
    kind: Kind, dtype: str, values: list[Any], wrong: list[bool], words: str
) -> None:
    got = illegal(kind, np.array(values, dtype))
    assert got.dtype == np.bool_
    assert got.tolist() == wrong
    assert fault(kind) == words
    assert illegal(kind, np.array(values, dtype)[:0]).shape == (0,)


def test_sane_times_are_those_of_a_century_and_its_first_and_last_millisecond() -> None:
    first, last = 946_684_800_000, 4_102_444_799_999
    assert (first, last + 1) == SANE_MS
    times = np.array([first - 1, first, first + 1, last - 1, last, last + 1, -1, 0, 2**62])
    assert insane(times).tolist() == [True, False, False, False, False, True, True, True, True]
    assert insane(np.zeros(0, np.int64)).shape == (0,)
    assert not insane(np.int64(first))


@pytest.mark.parametrize(
    ("unit", "first"),
    [
        ("seconds", 946_684_800),
        ("microseconds", 946_684_800_000_000),
        ("nanoseconds", 946_684_800_000_000_000),
    ],
)
def test_the_unit_of_a_time_is_the_one_in_which_it_is_sane(unit: str, first: int) -> None:
    beyond = first // 946_684_800 * 4_102_444_800
    assert [unit_of(t) for t in (first, first + 1, beyond - 1)] == [unit] * 3
    assert unit != unit_of(first - 1)
    assert unit != unit_of(beyond)
    assert unit_of(int(np.int64(first))) == unit
    assert day_of(first, unit) == "2000-01-01"
    assert day_of(first - 1, unit) == "1999-12-31"
    assert day_of(beyond - 1, unit) == "2099-12-31"


@pytest.mark.parametrize("time", [-1_764_500_000, 0, 1, 10_000_000, 10**30, -(10**30)])
def test_a_time_that_is_sane_in_no_unit_has_none(time: int) -> None:
    assert unit_of(time) == ""


@pytest.mark.parametrize(
    ("time", "unit", "day"),
    [
        (0, "milliseconds", "1970-01-01"),
        (-1, "milliseconds", "before 1970"),
        (1_764_500_000, "milliseconds", "1970-01-21"),
        (1_764_500_000, "seconds", "2025-11-30"),
        (253_402_300_799_999, "milliseconds", "9999-12-31"),
        (253_402_300_800_000, "milliseconds", "after the year 9999"),
        (10**400, "milliseconds", "after the year 9999"),
    ],
)
def test_a_day_is_named_as_far_as_there_are_dates(time: int, unit: str, day: str) -> None:
    assert day_of(time, unit) == day
