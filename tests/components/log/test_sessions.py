# SPDX-License-Identifier: Apache-2.0
"""Session ids are what they were: they are in every impression and history of earlier releases."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.log.columns import Ints
from components.log.sessions import (
    NO_SESSION,
    gap_sessions,
    gapped_rows,
    mix,
    request_sessions,
    untimed_sessions,
    with_sessions,
)
from feature_repo.specs import SIMULATOR
from tests.raw_builders import make_impressions

SPLITMIX64_OF_0 = 0xE220A8397B1DCDAF
"""The first output of the published generator, seeded with 0."""
GAP = 10


def ints(*values: int) -> Ints:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("parts", "value"),
    [
        ((0,), SPLITMIX64_OF_0 >> 1),
        ((1,), 5225608189600411232),
        ((-1,), 8245168133484221968),
        ((2**63 - 1,), 1527823816519176019),
        ((-(2**63),), 2598401411181246957),
        ((1_770_109_200_123,), 3508078173047130491),
        ((0, 0), 6017775124710473527),
        ((1, 2), 6804074658870690613),
        ((2, 1), 8085905411993364802),
        ((5, 0, 7), 8187814808720459377),
        ((7, 0, 5), 646608773935144014),
    ],
)
def test_mix_is_what_it_was(parts: tuple[int, ...], value: int) -> None:
    got = mix(*(ints(part) for part in parts))
    assert got.dtype == np.int64
    assert got.tolist() == [value]


def test_mix_takes_each_row_alone_and_a_number_for_all() -> None:
    assert mix(1, ints(2, 0), 7).tolist() == [int(mix(1, 2, 7)[0]), int(mix(1, 0, 7)[0])]
    assert mix(3, ints(), ints()).tolist() == []


def test_a_requests_session_is_what_it_was() -> None:
    got = request_sessions(ints(17, 4, 0, 2**40, 17), ints(4, 17, 0, 9, 4))
    assert got.tolist() == [
        99614731916553438,
        2109131809976106340,
        6396520470166291297,
        7625785179909125841,
        99614731916553438,
    ]


def test_an_untimed_rows_session_is_what_it_was() -> None:
    time_ms = 1_770_109_200_123
    got = untimed_sessions(ints(17, 17, 17), ints(time_ms, time_ms, time_ms + 1), ints(4, 5, 4))
    assert got.tolist() == [6089426981463855426, 4582088256870504821, 7402495450332435688]


def test_a_pauses_session_is_what_it_was_and_named_by_its_first_time() -> None:
    first = 1_770_109_200_123
    times = ints(first + 5, first, first + 14, first)
    got = gap_sessions(ints(17, 17, 17, 4), times, np.full(4, NO_SESSION), GAP)
    assert got.tolist() == [7802172374739018017] * 3 + [6985360933864921392]


def test_each_row_is_named_by_what_is_known_of_it() -> None:
    """The request, the pause since an earlier day's row, or itself; rows stay where they are."""
    start, gap = 1_770_109_200_000, SIMULATOR.session_gap_ms
    row = make_impressions(SIMULATOR, "2026-02-03", 1).to_pylist()[0]
    row |= {"member_id": 17, "post_id": 4, "event_time": start, "timed": True}
    rows = [
        {**row, "request_id": 9},
        {**row, "request_id": None},
        {**row, "request_id": None, "timed": False},
        {**row, "request_id": 9, "timed": False},
        {**row, "request_id": None, "event_time": start + gap + 1},
    ]
    good = pa.Table.from_pylist(rows, SIMULATOR.impression_schema)
    field = pa.field("session_id", pa.int64(), nullable=False)
    schema = SIMULATOR.impression_schema.append(field)
    before = {**row, "request_id": None, "event_time": start - gap, "session_id": 77}
    other = {**before, "request_id": 5, "event_time": start - 1, "session_id": 88}
    earlier = pa.Table.from_pylist([before, other], schema)
    untimed = int(untimed_sessions(ints(17), ints(start), ints(4))[0])
    late = int(mix(3, 17, start + gap + 1)[0])
    request = int(request_sessions(ints(17), ints(9))[0])
    named = with_sessions(good, earlier, SIMULATOR)
    assert named["session_id"].to_pylist() == [request, 77, untimed, untimed, late]
    assert named.schema == schema
    assert named.drop_columns("session_id").equals(good)
    assert gapped_rows(good).tolist() == [False, True, False, False, True]
    alone = with_sessions(good, schema.empty_table(), SIMULATOR)["session_id"].to_pylist()
    assert alone == [request, int(mix(3, 17, start)[0]), untimed, untimed, late]


NEW = NO_SESSION
KNOWN = [
    ("exactly the gap continues", [(1, 100, NEW), (1, 110, NEW)], [(1, 100), (1, 100)]),
    ("one more than the gap does not", [(1, 100, NEW), (1, 111, NEW)], [(1, 100), (1, 111)]),
    ("known before", [(1, 100, 77), (1, 110, NEW)], [77, 77]),
    ("known before, too long ago", [(1, 100, 77), (1, 111, NEW)], [77, (1, 111)]),
    ("known after", [(1, 100, NEW), (1, 110, 55)], [55, 55]),
    ("known after, too far away", [(1, 100, NEW), (1, 111, 55)], [(1, 100), 55]),
    ("between two", [(1, 100, 77), (1, 105, NEW), (1, 110, 55)], [77, 77, 55]),
    ("the nearest before", [(1, 100, 77), (1, 103, 55), (1, 105, NEW)], [77, 55, 55]),
    ("the nearest after", [(1, 95, NEW), (1, 100, 77), (1, 103, 55)], [77, 77, 55]),
    ("a chain of new ones", [(1, 90, 7), (1, 99, NEW), (1, 108, NEW)], [7, 7, 7]),
    ("a chain up to a known one", [(1, 90, NEW), (1, 99, NEW), (1, 108, 7)], [7, 7, 7]),
    ("another member before", [(1, 100, 77), (2, 101, NEW)], [77, (2, 101)]),
    ("another member after", [(1, 100, NEW), (2, 101, 77)], [(1, 100), 77]),
    ("the very same time", [(1, 100, 77), (1, 100, NEW)], [77, 77]),
    ("session 0 is a session", [(1, 100, 0), (1, 105, NEW)], [0, 0]),
    ("alone", [(1, 100, NEW)], [(1, 100)]),
    ("alone and known", [(1, 100, 5)], [5]),
    ("none", [], []),
]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("served", "sessions"), [k[1:] for k in KNOWN], ids=[k[0] for k in KNOWN])
def test_a_pause_ends_a_session_and_a_known_one_goes_on(
    served: list[tuple[int, int, int]], sessions: list[int | tuple[int, int]], reverse: bool
) -> None:
    """Each is a member, a time and the session that an earlier day gave, in any order.

    What is named anew is so by its member and first time.
    """
    step = -1 if reverse else 1
    rows = np.array(served, np.int64).reshape(len(served), 3)[::step]
    want = [s if isinstance(s, int) else int(mix(3, *s)[0]) for s in sessions][::step]
    assert gap_sessions(rows[:, 0], rows[:, 1], rows[:, 2], GAP).tolist() == want


def test_between_two_members_with_known_sessions() -> None:
    """The first and the last place of a member touch others' in the order that is searched."""
    member, time = ints(1, 2, 2, 3), ints(500, 100, 105, 105)
    got = gap_sessions(member, time, ints(7, NEW, NEW, 8), GAP)
    assert got.tolist() == [7, *[int(mix(3, 2, 100)[0])] * 2, 8]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60)), max_size=25),
    st.integers(1, 10),
)
def test_gap_sessions_against_a_loop(served: list[tuple[int, int]], gap: int) -> None:
    member, time = np.array(served, np.int64).reshape(-1, 2).T
    got = gap_sessions(member, time, np.full(len(served), NO_SESSION), gap)
    expected = np.empty(len(served), np.int64)
    for who in set(member.tolist()):
        last, first = None, 0
        for place in sorted(np.flatnonzero(member == who), key=lambda i: time[i]):
            if last is None or time[place] - last > gap:
                first = time[place]
            last = time[place]
            expected[place] = mix(3, np.array([who]), np.array([first]))[0]
    np.testing.assert_array_equal(got, expected)
