# SPDX-License-Identifier: Apache-2.0
"""Windows by hand and by their law: where they begin and end, and what each impression knew."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.log.columns import column
from components.log.impressions import history_order
from components.training.windows import Windows, mark_loss, short_members, span, windows
from feature_repo.spec import FRESHNESS, window_start
from kernels.loader import AUXILIARY, TARGET
from serving.history import known_counts
from tests.log_builders import FIRST_DAY, random_log, small_spec

SPEC = small_spec("kuairand")  # a history of 12, in blocks of 4
MOST = SPEC.max_impressions + SPEC.block - 1


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def ordered(seed: int, **sizes: int) -> pa.Table:
    return history_order(random_log(SPEC, seed, **sizes).impressions)


@pytest.mark.parametrize(
    ("known", "warm", "cold"),
    [
        ({0: 0}, (0, 1), (0, 1)),
        ({7: 7}, (0, 8), (0, 8)),
        ({3: 3, 7: 7}, (0, 8), (0, 8)),
        ({14: 14}, (0, 15), (0, 15)),  # the longest: twelve, and a block but one
        ({15: 15}, (0, 16), (4, 16)),
        ({16: 16}, (4, 17), (4, 17)),
        ({30: 30}, (16, 31), (16, 31)),
        ({18: 18, 30: 30}, (4, 31), (16, 31)),  # both targets keep their history in a warm start
        ({10: 10, 30: 30}, (16, 31), (16, 31)),  # the first lies further back than a window reaches
        ({30: 2}, (0, 31), (16, 31)),  # it came late, and knew little
        ({20: 2, 30: 30}, (0, 31), (16, 31)),
    ],
)
def test_a_window_by_hand(
    known: dict[int, int], warm: tuple[int, int], cold: tuple[int, int]
) -> None:
    """Of targets at some indices of a log, which knew so many before them."""
    known_N = np.full(40, 99, np.int32)
    known_N[list(known)] = list(known.values())
    assert span(ints(*known), known_N, SPEC, cap=False) == warm
    assert span(ints(*known), known_N, SPEC, cap=True) == cold


@settings(deadline=None, max_examples=60)
@given(
    marked=st.sets(st.integers(0, 80), min_size=1).map(sorted),
    share=st.floats(0, 1),
    cap=st.booleans(),
)
def test_a_window_holds_its_last_target_and_begins_at_a_block(
    marked: list[int], share: float, cap: bool
) -> None:
    known_N = (np.arange(81) * share).astype(np.int32)
    start, stop = span(ints(*marked), known_N, SPEC, cap=cap)
    assert stop == marked[-1] + 1
    assert start % SPEC.block == 0
    assert 0 <= start <= marked[-1]
    assert not cap or stop - start <= MOST
    first = min(m for m in marked if m >= stop - MOST)
    assert cap or start == window_start(int(known_N[first]), SPEC.max_impressions, SPEC.block)


def test_a_cold_start_keeps_the_newest_window() -> None:
    log = ordered(13, rows=200, members=1)
    loss_N = np.full(len(log), TARGET, np.int8)
    cold, warm = (windows(log, loss_N, SPEC, "day", cap=cap) for cap in (True, False))
    (length,) = cold.end_S - cold.begin_S
    assert MOST - SPEC.block < length <= MOST
    assert cold.end_S.tolist() == warm.end_S.tolist() == [len(log)]
    assert warm.begin_S[0] < cold.begin_S[0]


@pytest.mark.law
@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    freshness=st.sampled_from(FRESHNESS),
    cap=st.booleans(),
    chance=st.floats(0, 0.2),
)
def test_the_windows_of_members_are_each_ones_own(
    seed: int, freshness, cap: bool, chance: float
) -> None:
    """And an impression knows what it knew of the log, less what lies before its window."""
    impressions = ordered(seed, rows=150, members=4)
    shares = [1 - chance, chance / 2, chance / 2]
    rng = np.random.default_rng(seed)
    loss_N = rng.choice([0, TARGET, AUXILIARY], len(impressions), p=shares).astype(np.int8)
    held = windows(impressions, loss_N, SPEC, freshness, cap=cap)
    member_N = column(impressions, "member_id")
    assert held.member_S.tolist() == np.unique(member_N[loss_N > 0]).tolist()
    for s, member in enumerate(held.member_S):
        own = np.flatnonzero(member_N == member)
        event, arrival, timed = (
            column(impressions, name)[own] for name in ("event_time", "arrival_time", "timed")
        )
        known = known_counts(event, arrival, SPEC, freshness, timed=timed.astype(bool))
        begin, end = span(np.flatnonzero(loss_N[own]), known, SPEC, cap=cap)
        assert held.start_S[s] == begin
        assert (held.begin_S[s], held.end_S[s]) == (own[0] + begin, own[0] + end)
        assert held.known_N[own].tolist() == np.maximum(known - begin, 0).tolist()


@pytest.mark.law
@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    freshness=st.sampled_from(FRESHNESS),
    after=st.integers(0, 5),
    newest=st.lists(st.integers(1, 60), min_size=4, max_size=4),
)
def test_the_newest_of_a_log_have_its_windows_or_are_short(
    seed: int, freshness, after: int, newest: list[int]
) -> None:
    """Rows came up to six days late, so a target may have known little."""
    log = ordered(seed, rows=200, members=4, days=7)
    member = column(log, "member_id")
    first = np.searchsorted(member, member)
    count = np.searchsorted(member, member, side="right") - first
    index = np.arange(len(log)) - first
    log = log.append_column("index", pa.array(index))
    recent = log.filter(pa.array(index >= count - np.array(newest)[member - 1]))
    after_day = SPEC.day_name(FIRST_DAY + after)
    day = SPEC.day_name(FIRST_DAY + 6)
    short = short_members(
        recent, mark_loss(recent, SPEC, after_day, day), SPEC, freshness, SPEC.day_end(after_day)
    )
    held = []
    for rows in (log, recent):
        kept = rows.filter(pa.array(~np.isin(column(rows, "member_id"), short)))
        found = windows(kept, mark_loss(kept, SPEC, after_day, day), SPEC, freshness, cap=False)
        place = found.positions_M()
        columns = (column(kept, "event_time")[place], found.known_N[place], found.start_S)
        held.append([found.member_S.tolist(), *(values.tolist() for values in columns)])
    assert held[0] == held[1]
    assert not set(short.tolist()) & set(member[count <= np.array(newest)[member - 1]].tolist())


def by_hand(first: int, served: list[int], arrived: list[int]) -> pa.Table:
    """The newest impressions of one member by the days on which each was served and arrived."""
    served_ms, arrived_ms = (SPEC.day_start(FIRST_DAY + ints(*days)) for days in (served, arrived))
    return pa.table(
        {
            "member_id": np.ones(len(served), np.int64),
            "event_time": served_ms + 1,
            "arrival_time": arrived_ms + 1,
            "timed": np.ones(len(served), np.bool_),
            "index": first + np.arange(len(served)),
        }
    )


@pytest.mark.parametrize(
    ("first", "served", "arrived", "short"),
    [
        (0, [3], [3], False),
        (8, [*[1] * 12, 3], [*[1] * 12, 3], False),  # twenty known: the window began at the eighth
        (9, [*[1] * 11, 3], [*[1] * 11, 3], True),  # and its first is not at hand
        (8, [*[2] * 12, 1], [*[2] * 12, 4], True),  # a late one, that knew none of those at hand
        (8, [*[1] * 8, 2], [*[1] * 8, 2], False),  # none that is new
        (8, [3, 3], [3, 3], True),  # all are new: one before may be
        # The run before saw those that came on the next day: one before them may be a target.
        (8, [2] * 12, [3] * 12, True),
        (8, [*[2] * 12, 4], [*[3] * 12, 4], True),
        (8, [*[2] * 16, 4], [*[3] * 16, 4], False),  # but none that is in reach
        (8, [*[1] * 8, *[3] * 30], [*[1] * 8, *[3] * 30], True),  # the oldest in reach knew sixteen
    ],
)
def test_who_is_short_by_hand(
    first: int, served: list[int], arrived: list[int], short: bool
) -> None:
    """Of a member whose impressions after the second day are to be trained on."""
    after_day = SPEC.day_name(FIRST_DAY + 2)
    rows = by_hand(first, served, arrived)
    loss_N = mark_loss(rows, SPEC, after_day, SPEC.day_name(FIRST_DAY + 5))
    got = short_members(rows, loss_N, SPEC, "day", SPEC.day_end(after_day))
    assert got.tolist() == [1] * short


def test_nobody_to_train_on_has_no_window() -> None:
    impressions = ordered(2)
    for few in (impressions, impressions.slice(0, 0)):
        held = windows(few, np.zeros(len(few), np.int8), SPEC, "day", cap=True)
        assert len(held.member_S) == 0
        assert held.offsets.tolist() == [0]
        assert held.positions_M().tolist() == []
        assert held.known_N.tolist() == [0] * len(few)


def test_where_the_impressions_of_all_sequences_lie() -> None:
    """Windows may overlap, as those of one member do that is marked in two ways."""
    held = Windows(
        member_S=ints(1, 2, 2),
        begin_S=ints(2, 7, 6),
        end_S=ints(5, 8, 10),
        start_S=ints(2, 1, 0),
        known_N=np.zeros(12, np.int32),
    )
    assert held.offsets.tolist() == [0, 3, 4, 8]
    assert held.positions_M().tolist() == [2, 3, 4, 7, 6, 7, 8, 9]
