# SPDX-License-Identifier: Apache-2.0
"""The first row of each key, and which rows are equal to it, against loops that say the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from components.log.duplicates import first_rows, repeats, same_rows

KEYS = pa.schema({"member_id": pa.int64(), "post_id": pa.int64(), "arrival_time": pa.int64()})
NAN = float("nan")


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 4), st.booleans())),
    st.integers(0, 3),
    st.booleans(),
)
def test_the_first_good_row_of_each_key(
    rows: list[tuple[int, int, int, bool]], known: int, arrives: bool
) -> None:
    """Leading rows first, then by arrival where there is one, then by place."""
    *columns, good = np.array(rows, np.int64).reshape(-1, 4).T
    table = pa.table([pa.array(c) for c in columns], schema=KEYS)
    table = table if arrives else table.drop_columns("arrival_time")
    known = min(known, len(rows))

    def turn(i: int) -> tuple[bool, int, int]:
        return i >= known, rows[i][2] if arrives else 0, i

    want = []
    for place, (member, post, _, is_good) in enumerate(rows):
        mine = [i for i, r in enumerate(rows) if r[3] and r[:2] == (member, post)]
        want.append(min(mine, key=turn) if is_good else place)
    got = first_rows(table, good.astype(np.bool_), ("member_id", "post_id"), known)
    assert got.tolist() == want


def test_no_row_comes_before_its_arrival_where_none_is_known_before() -> None:
    table = pa.table([pa.array(c) for c in ([1, 1], [2, 2], [9, 5])], schema=KEYS)
    first = first_rows(table, np.array([True, True]), ("member_id", "post_id"))
    assert first.tolist() == [1, 1]


def same(values: list[Any], kind: pa.DataType, other: np.ndarray) -> list[bool]:
    return same_rows(pa.table({"value": pa.array(values, kind)}), other).tolist()


def test_rows_are_the_same_by_their_bits_and_their_nulls() -> None:
    """A null is not the 0 that stands for it, a NaN equals itself, and 0.0 is not -0.0."""
    assert same([0, None, None, 0], pa.int32(), ints(0, 0, 1, 0)) == [True, False, True, True]
    floats = same([NAN, NAN, 0.0, -0.0], pa.float32(), ints(0, 0, 2, 2))
    assert floats == [True, True, True, False]
    pair = pa.list_(pa.float16(), 2)
    lists = same([[0, 0], None, [0, 1], [0, 1]], pair, ints(0, 0, 0, 2))
    assert lists == [True, False, False, True]
    assert same([], pa.int64(), ints()) == []


def test_one_column_that_differs_is_enough() -> None:
    table = pa.table({"a": [1, 1, 1], "b": [2, 2, 3], "c": [4, 4, 4]})
    assert same_rows(table, ints(0, 0, 0)).tolist() == [True, True, False]


def rows_of(*rows: tuple[int, int, int]) -> pa.Table:
    """Post, when it arrived, and a value; of one member at one time."""
    post, arrival, value = np.array(rows, np.int64).reshape(-1, 3).T
    fixed = np.zeros(len(post), np.int64)
    names = ("member_id", "event_time", "post_id", "arrival_time", "value")
    return pa.table(dict(zip(names, (fixed, fixed, post, arrival, value), strict=True)))


def test_what_repeats_exactly_and_what_with_a_difference() -> None:
    """When a row arrived is no difference; an earlier day's stands though today's came before."""
    earlier = rows_of((1, 50, 7))
    raw = rows_of((1, 40, 7), (1, 41, 8), (2, 44, 5), (2, 43, 5), (2, 42, 6), (3, 1, 1))
    good = np.array([True, True, True, True, False, True])
    exact, differs = repeats(raw, good, earlier)
    assert exact.tolist() == [True, False, True, False, False, False]
    assert differs.tolist() == [False, True, False, False, False, False]
    for mask in repeats(raw.slice(0, 0), good[:0], earlier):
        assert mask.tolist() == []
