# SPDX-License-Identifier: Apache-2.0
"""Counters of a log of nine rows, computed by hand, at the edges of cutoffs and windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from components.features.counters import DWELL_PRIOR, count_as_of, counter_columns, windows
from feature_repo.kinds import Counter, Feature, Numeric, Task, View
from feature_repo.spec import Spec

DAY_MS = 24 * 60 * 60 * 1000
CUTOFF = 100 * DAY_MS
WEEK, MONTH = 7 * DAY_MS, 30 * DAY_MS


def feature(name: str, **counter: Any) -> Feature:
    return Feature(
        name=name, role="context", kind=Numeric(), source="pair", counter=Counter(**counter)
    )


FEATURES = (
    feature("seen", of="impression"),
    feature("seen_7d", of="impression", days=7),
    feature("clicks", of="click"),
    feature("clicks_30d", of="click", days=30),
    feature("click_rate", of="click", rate=True),
    feature("like_rate", of="like", rate=True, strength=4.0),
    feature("click_rate_7d", of="click", rate=True, days=7),
    feature("click_last2", of="click", rate=True, last=2),
    feature("seen_last3", of="impression", last=3),
    feature("dwell_mid", of="dwell", rate=True, dwell_ms=(3_000, 10_000)),
)
PAIR = View(name="pair", keys=("member_id", "actor_id"), kind="counters", features=FEATURES)
POST = View(name="post", keys=("post_id",), kind="counters", features=FEATURES[:1])
WINDOWED = View(
    name="pair", keys=("member_id",), kind="counters", features=(FEATURES[1], FEATURES[3])
)
SPEC = Spec(
    name="hand",
    features=(),
    views=(PAIR,),
    tasks=(Task(name="click", group="passive", prior=0.3, utility=1.0),),
)
COLUMNS = ("member_id", "actor_id", "post_id", "event_time", "arrival_time", "timed")
ROWS = [
    # member, actor, post, served, arrived, timed, click, like, dwell
    (1, 5, 11, CUTOFF - WEEK, CUTOFF - WEEK + 1, True, 1, 0, 3_000),
    (1, 5, 12, CUTOFF - WEEK - 1, CUTOFF - WEEK, True, 1, -1, 2_999),
    (1, 5, 13, CUTOFF - 9, CUTOFF - 1, True, 0, 1, 9_999),
    (1, 5, 14, CUTOFF - 9, CUTOFF, True, 1, 1, 5_000),
    (1, 5, 15, CUTOFF - MONTH - 5, CUTOFF - 7, True, 1, -1, 10_000),
    (1, 5, 16, CUTOFF - MONTH, CUTOFF - 5, True, -1, 0, None),
    (1, 5, 17, CUTOFF - WEEK, CUTOFF - 90 * DAY_MS, False, 1, 0, 4_000),
    (1, 6, 18, CUTOFF - 3, CUTOFF - 2, True, 1, 1, 0),
    (2, 5, 11, CUTOFF - 3, CUTOFF - 2, True, 0, 0, 30_000),
]


def impressions() -> pa.Table:
    kinds = [pa.int64()] * 5 + [pa.bool_(), pa.int8(), pa.int8(), pa.int32()]
    names = (*COLUMNS, "click", "like", "dwell_ms")
    columns = zip(*ROWS, strict=True)
    return pa.table({n: pa.array(c, k) for n, c, k in zip(names, columns, kinds, strict=True)})


def keys(*pairs: tuple[int, ...], names: tuple[str, ...] = PAIR.keys) -> pa.Table:
    columns = zip(*pairs, strict=True)
    return pa.table({n: pa.array(c, pa.int64()) for n, c in zip(names, columns, strict=True)})


def count(view: View, asked: pa.Table, *cutoffs: int) -> list[dict[str, float]]:
    got = count_as_of(impressions(), view, asked, np.array(cutoffs), SPEC)
    assert got.dtype == view.dtype
    return [dict(zip(view.dtype.names, map(float, row), strict=True)) for row in got]


def test_every_counter_by_hand() -> None:
    """Of the pair's seven rows the one that arrived at the cutoff is not known.

    The untimed one counts where there is no window; it arrived first.
    """
    (got,) = count(PAIR, keys((1, 5)), CUTOFF)
    # In order of arrival: 17, 12, 11, 15, 16, 13.
    assert got == pytest.approx(
        {
            "seen": 6,
            "seen_7d": 2,
            "clicks": 4,
            "clicks_30d": 2,
            "click_rate": (4 + 10 * 0.3) / (5 + 10),
            "like_rate": (1 + 4 * DWELL_PRIOR) / (4 + 4),
            "click_rate_7d": (1 + 10 * 0.3) / (2 + 10),
            "click_last2": (0 + 10 * 0.3) / (1 + 10),
            "seen_last3": 3,
            "dwell_mid": (3 + 10 * DWELL_PRIOR) / (5 + 10),
        },
        rel=1e-6,
    )
    assert DWELL_PRIOR == 0.1


def test_a_millisecond_later_and_earlier() -> None:
    """What arrived at the cutoff is known after it, and what was served a window ago has left."""
    asked = keys((1, 5), (1, 5), (1, 5))
    earlier, at, later = count(PAIR, asked, CUTOFF - 1, CUTOFF, CUTOFF + 1)
    assert [row["seen"] for row in (earlier, at, later)] == [5, 6, 7]
    assert [row["seen_7d"] for row in (earlier, at, later)] == [2, 2, 2]
    assert [row["clicks_30d"] for row in (earlier, at, later)] == [2, 2, 3]
    assert [row["seen_last3"] for row in (earlier, at, later)] == [3, 3, 3]
    assert earlier["click_last2"] == pytest.approx((1 + 3) / (1 + 10))
    assert later["click_last2"] == pytest.approx((1 + 3) / (2 + 10))


def test_what_arrived_late_counts_in_a_window_for_as_long_as_it_is_in_it() -> None:
    """Post 15 arrived two milliseconds before it left the month, and is in it at its last one."""
    cutoffs = (CUTOFF - 7, CUTOFF - 6, CUTOFF - 5, CUTOFF - 4)
    got = count(PAIR, keys(*[(1, 5)] * 4), *cutoffs)
    assert [row["seen"] for row in got] == [3, 4, 4, 5]
    assert [row["clicks_30d"] for row in got] == [2, 3, 3, 2]


@pytest.mark.parametrize("late", [-2, -1, 0, 1])
def test_what_arrived_when_it_had_left_a_window_never_counts_in_it(late: int) -> None:
    served, leaves = CUTOFF - MONTH, CUTOFF
    rows = [(1, 5, 11, served, leaves + late, True, 1, 1, 5)]
    names = (*COLUMNS, "click", "like", "dwell_ms")
    table = pa.table({n: pa.array(c) for n, c in zip(names, zip(*rows, strict=True), strict=True)})
    cutoffs = np.array([leaves + offset for offset in range(-2, 4)])
    got = count_as_of(table, PAIR, keys(*[(1, 5)] * 6), cutoffs, SPEC)
    inside = [float(leaves + late < c <= leaves) for c in cutoffs.tolist()]
    known = [leaves + late < c for c in cutoffs.tolist()]
    want = [i if k else np.nan for i, k in zip(inside, known, strict=True)]
    assert got["clicks_30d"].tolist() == pytest.approx(want, nan_ok=True)
    assert sum(inside) == max(-late, 0)


def test_each_query_has_its_own_key_and_cutoff() -> None:
    asked = keys((2, 5), (1, 6), (3, 3), (1, 5), (6, 1), (2, 5))
    cutoffs = (CUTOFF, CUTOFF, CUTOFF, CUTOFF - 90 * DAY_MS + 1, CUTOFF, CUTOFF - 2)
    got = count(PAIR, asked, *cutoffs)
    want = [1, 1, np.nan, 1, np.nan, np.nan]
    assert [row["seen"] for row in got] == pytest.approx(want, nan_ok=True)
    assert got[0]["click_rate"] == pytest.approx(3 / 11)
    assert got[1]["click_rate"] == pytest.approx(4 / 11)
    # Known, but untimed: in no window.
    assert (got[3]["clicks"], got[3]["seen_7d"]) == (1, 0)


def test_a_key_of_one_column_and_a_view_of_windows_alone() -> None:
    asked = keys((11,), (14,), (99,), names=("post_id",))
    seen = [row["seen"] for row in count(POST, asked, CUTOFF, CUTOFF, CUTOFF)]
    assert seen == pytest.approx([2, np.nan, np.nan], nan_ok=True)
    asked = keys((1,), (1,), names=("member_id",))
    # Where a view has windows alone, its key is seen when a timed row of it is.
    rows = count(WINDOWED, asked, CUTOFF - 90 * DAY_MS + 1, CUTOFF)
    assert np.isnan(rows[0]["seen_7d"])
    assert rows[1] == {"seen_7d": 3, "clicks_30d": 3}


def test_the_last_of_fewer_and_of_unknown() -> None:
    got = count(PAIR, keys((1, 5), (1, 5)), CUTOFF - 90 * DAY_MS + 1, CUTOFF - 4)
    assert (got[0]["click_last2"], got[0]["seen_last3"]) == (pytest.approx(4 / 11), 1)
    # The last two are posts 15 and 16, of which one is known.
    assert got[1]["click_last2"] == pytest.approx(4 / 11)
    only = impressions().filter(pa.array([row[2] == 16 for row in ROWS]))
    row = count_as_of(only, PAIR, keys((1, 5)), np.array([CUTOFF]), SPEC)
    assert np.isnan(row["click_last2"][0])
    assert row["click_rate"][0] == pytest.approx(0.3)


def test_ties_of_arrival_are_broken_by_post_then_by_time() -> None:
    """The order of a history: what is last of several that arrived together."""
    time_ms = CUTOFF - 50
    rows = [(1, 5, post, time_ms - late, time_ms, True, click, 0, 1) for post, late, click in TIES]
    names = (*COLUMNS, "click", "like", "dwell_ms")
    table = pa.table({n: pa.array(c) for n, c in zip(names, zip(*rows, strict=True), strict=True)})
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        got = count_as_of(table.take(order), PAIR, keys((1, 5)), np.array([CUTOFF]), SPEC)
        assert got["click_last2"][0] == pytest.approx((2 + 3) / 12)


TIES = [(9, 30, 0), (7, 20, 0), (3, 10, 1), (8, 10, 1)]
"""Post, how long before its arrival it was served, click."""


def test_what_is_read_of_an_impression() -> None:
    assert counter_columns(PAIR) == [
        *("member_id", "actor_id", "post_id", "event_time", "arrival_time", "timed"),
        *("click", "dwell_ms", "like"),
    ]
    assert counter_columns(POST) == ["post_id", "event_time", "arrival_time", "timed"]
    assert windows(PAIR) == [7, 30]
    assert windows(POST) == []


def test_no_query_and_no_event() -> None:
    nobody, some = keys((1, 5)).slice(1), keys((1, 5), (2, 5))
    assert count_as_of(impressions(), PAIR, nobody, np.zeros(0, np.int64), SPEC).shape == (0,)
    got = count_as_of(impressions().slice(0, 0), PAIR, some, np.array([CUTOFF] * 2), SPEC)
    assert got.tobytes() == PAIR.default.tobytes() * 2


def test_keys_of_two_columns_are_not_taken_for_each_other() -> None:
    """Three members and two actors, each pair another number of times."""
    pairs = [(member, actor) for member in (1, 2, 3) for actor in (5, 6)]
    rows = [pair for times, pair in enumerate(pairs, start=1) for pair in [pair] * times]
    row = impressions().slice(0, 1)
    table = pa.concat_tables([row] * len(rows))
    for place, name in enumerate(PAIR.keys):
        table = table.set_column(place, name, pa.array([row[place] for row in rows]))
    for asked in (pairs, pairs[::-1], [pairs[i] for i in (0, 3, 4, 1, 5, 2)]):
        got = count_as_of(table, PAIR, keys(*asked), np.full(6, CUTOFF), SPEC)
        assert got["seen"].tolist() == [pairs.index(pair) + 1 for pair in asked]


def test_millions_of_keys_at_one_time_fit() -> None:
    """Only the times between the cutoffs are told apart, however late in history they are."""
    members = pa.table({"member_id": np.arange(1_200_000)})
    view = View(name="pair", keys=("member_id",), kind="counters", features=FEATURES[:1])
    cutoff_ms = np.full(len(members), 4_102_444_800_000)
    got = count_as_of(impressions(), view, members, cutoff_ms, SPEC)
    assert got["seen"][:4].tolist() == pytest.approx([np.nan, 8, 1, np.nan], nan_ok=True)
