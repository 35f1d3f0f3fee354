# SPDX-License-Identifier: Apache-2.0
"""Counters that are carried from day to day are the ones counted at once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.features.counter_state import (
    CHANGED,
    carry,
    empty_state,
    packed_rows,
    state_schema,
)
from components.features.counters import count_as_of, windows
from components.features.key_sums import MOVED, Span
from components.log.buckets import deal
from components.log.columns import column
from components.log.impressions import with_content
from feature_repo.kinds import Counter, Feature, Numeric, View
from feature_repo.spec import DAY_MS
from tests.log_builders import FIRST_DAY, random_log, small_spec

SPEC = small_spec("simulator")
VIEWS = [view for view in SPEC.views if view.kind == "counters"]
DAYS = 14


def rows_of(impressions: pa.Table, view: View, span: Span) -> pa.Table:
    """The impressions that arrived in a span or left a window in it."""
    arrival, event = column(impressions, "arrival_time"), column(impressions, "event_time")
    timed = column(impressions, "timed").astype(bool)
    wanted = arrival >= (span.since or 0)
    for days in windows(view):
        if span.since is not None:
            leaves = event + days * DAY_MS
            wanted |= timed & (leaves >= span.since) & (leaves < span.end)
    return impressions.filter(pa.array(wanted & (arrival < span.end)))


def assert_counted(state: pa.Table, impressions: pa.Table, view: View, span: Span) -> None:
    """The rows of a day are the changed keys of the log with what the oracle counts."""
    rows = rows_of(impressions, view, span)
    if all(f.counter is not None and f.counter.days is not None for f in view.features):
        rows = rows.filter(rows["timed"])
    order = [(key, "ascending") for key in view.keys]
    changed = rows.group_by(list(view.keys)).aggregate([]).sort_by(order)
    keys, values = packed_rows(state, view, SPEC)
    assert keys.equals(changed.cast(keys.schema)), "by their keys"
    cutoff = np.full(keys.num_rows, span.end)
    expected = count_as_of(impressions, view, keys, cutoff, SPEC)
    assert values.tobytes() == expected.tobytes()


@pytest.mark.law
@given(
    seed=st.integers(0, 2**32),
    stops=st.sets(st.integers(1, DAYS - 1), max_size=DAYS),
    buckets=st.sampled_from([1, 3]),
)
@settings(deadline=None, max_examples=25)
def test_carried_day_by_day_it_is_what_is_counted_at_once(seed, stops, buckets):
    log = random_log(SPEC, seed, rows=150, days=DAYS)
    impressions = with_content(log.impressions, log.posts, SPEC)
    days = [*sorted(stops), DAYS, DAYS + 40, DAYS + 366]
    for view in VIEWS:
        shares = [*deal(impressions, view.keys, buckets)]
        for share in shares:
            state, since = empty_state(view), None
            for day in days:
                span = Span(since, int(SPEC.day_start(FIRST_DAY + day)))
                state = carry(state, rows_of(share, view, span), view, span)
                assert_counted(state, share, view, span)
                since = span.end
        at_once = carry(empty_state(view), shares[-1], view, Span(None, since))
        names = [n for n in state_schema(view).names if n != CHANGED]
        kept = state.select(names)
        lost = at_once.num_rows - kept.num_rows
        assert lost == 0 or all(f.counter.days for f in view.features)
        assert lost or kept.equals(at_once.select(names))


def test_a_post_declared_since_takes_its_impressions_along():
    view = SPEC.view("actor_popularity")
    log = random_log(SPEC, 5, rows=90, days=3)
    late = column(log.posts, "post_id") == 2
    unknown = with_content(log.impressions, log.posts.filter(pa.array(~late)), SPEC)
    known = with_content(log.impressions, log.posts, SPEC)
    since, end = (int(SPEC.day_start(FIRST_DAY + d)) for d in (2, 3))
    state = carry(empty_state(view), unknown, view, Span(None, since))
    past = column(known, "arrival_time") < since
    mine = pa.array(past & (column(known, "post_id") == 2))
    moved = [
        table.filter(mine).append_column(
            MOVED, pa.array(np.full(sum(mine.to_pylist()), sign, np.int8))
        )
        for table, sign in ((unknown, -1), (known, 1))
    ]
    today = known.filter(pa.array(~past))
    today = today.append_column(MOVED, pa.array(np.zeros(today.num_rows, np.int8)))
    assert moved[0].num_rows
    span = Span(since, end)
    state = carry(state, pa.concat_tables([*moved, today]), view, span)
    assert_counted(state, known, view, span)
    keys = state.select(list(view.keys))
    everyone = state.set_column(1, CHANGED, pa.array([True] * state.num_rows))
    _, values = packed_rows(everyone, view, SPEC)
    cutoff = np.full(keys.num_rows, end)
    assert values.tobytes() == count_as_of(known, view, keys, cutoff, SPEC).tobytes()


def test_a_window_alone_forgets_the_keys_that_left_it():
    counter = Counter(of="impression", days=7)
    feature = Feature(name="seen", role="context", kind=Numeric(), source="pair", counter=counter)
    view = View(name="pair", keys=("member_id", "actor_id"), kind="counters", features=(feature,))
    log = random_log(SPEC, 6, rows=60, days=2)
    impressions = with_content(log.impressions, log.posts, SPEC)
    ends = [int(SPEC.day_start(FIRST_DAY + d)) for d in (2, 30, 31)]
    state = carry(empty_state(view), impressions, view, Span(None, ends[0]))
    assert state.num_rows
    for since, end, left in ((ends[0], ends[1], state.num_rows), (ends[1], ends[2], 0)):
        span = Span(since, end)
        state = carry(state, rows_of(impressions, view, span), view, span)
        assert state.num_rows == left
    assert state.schema == state_schema(view)
