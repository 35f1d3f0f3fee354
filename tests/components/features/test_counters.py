# SPDX-License-Identifier: Apache-2.0
"""Counters against the definition, written as a loop."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.features.counters import DWELL_PRIOR, count_as_of, counter_columns, windows
from components.log.columns import column
from components.log.impressions import history_order, with_content
from feature_repo.kinds import Counter, View
from feature_repo.spec import DAY_MS, Spec
from feature_repo.specs import KUAIRAND
from tests.log_builders import FIRST_DAY, GRID_MS, random_log, small_spec

SPEC = small_spec("kuairand")
VIEWS = [v for v in SPEC.views if v.kind == "counters"]


def by_definition(rows: list[dict], view: View, key: dict, cutoff: int, spec: Spec) -> list[float]:
    """One record as the spec's docstrings define it; rows are in history order."""
    only_windows = all(f.counter.days for f in view.features)
    rows = [
        r
        for r in rows
        if r["arrival_time"] < cutoff
        and all(r[k] == key[k] for k in view.keys)
        and (r["timed"] or not only_windows)
    ]
    if not rows:
        return [float(view.default[f.name][0]) for f in view.features]
    return [one_counter(rows, f.counter, cutoff, spec) for f in view.features]


def one_counter(rows: list[dict], counter: Counter, cutoff: int, spec: Spec) -> float:
    if counter.days is not None:
        since = cutoff - counter.days * DAY_MS
        rows = [r for r in rows if r["timed"] and r["event_time"] >= since]
    if counter.last is not None:
        rows = rows[-counter.last :]
    states = [state(r, counter) for r in rows]
    hits, known = states.count(1), len(states) - states.count(-1)
    if not counter.rate:
        return float(hits)
    if counter.last is not None and not known:
        return np.nan
    prior = {t.name: t.prior for t in spec.tasks}.get(counter.of, DWELL_PRIOR)
    return (hits + counter.strength * prior) / (known + counter.strength)


def state(row: dict, counter: Counter) -> int:
    """1 a hit, 0 none, -1 not known."""
    if counter.of == "impression":
        return 1
    if counter.of != "dwell":
        return row[counter.of]
    dwell = row["dwell_ms"]
    return -1 if dwell is None else int(counter.dwell_ms[0] <= dwell < counter.dwell_ms[1])


@pytest.mark.law
@pytest.mark.parametrize("view", VIEWS, ids=lambda v: v.name)
@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_counters_are_what_the_definition_says(view, seed):
    log = random_log(SPEC, seed, rows=90, days=4)
    impressions = with_content(log.impressions, log.posts, SPEC)
    rng = np.random.default_rng(seed)
    some = rng.integers(0, len(impressions), 40)
    asked = pa.table({k: np.append(column(impressions, k)[some], 99) for k in view.keys})
    start = SPEC.day_start(FIRST_DAY)
    cutoff = start + rng.integers(-6, 20 * DAY_MS // GRID_MS, len(asked)) * GRID_MS
    got = count_as_of(impressions, view, asked, cutoff, SPEC)
    # history_order is by member first; ties between members do not matter to a sum, and last-n
    # views are the member's own.
    rows = history_order(impressions).to_pylist()
    for i, key in enumerate(asked.to_pylist()):
        expected = by_definition(rows, view, key, int(cutoff[i]), SPEC)
        np.testing.assert_allclose(list(got[i]), expected, rtol=1e-6)


@pytest.mark.law
@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_what_arrives_at_or_after_the_cutoff_changes_nothing(seed):
    log = random_log(SPEC, seed)
    impressions = with_content(log.impressions, log.posts, SPEC)
    cutoff = int(np.random.default_rng(seed).choice(column(impressions, "arrival_time")))
    late = column(impressions, "arrival_time") >= cutoff
    without = impressions.filter(pa.array(~late))
    click = np.where(late, 1 - column(impressions, "click"), column(impressions, "click")).astype(
        np.int8
    )
    place = impressions.schema.get_field_index("click")
    changed = impressions.set_column(place, impressions.schema.field(place), pa.array(click))
    for view in VIEWS:
        keys = impressions.select(list(view.keys))
        cutoffs = np.full(len(keys), cutoff)
        bytes_ = {
            count_as_of(e, view, keys, cutoffs, SPEC).tobytes()
            for e in (impressions, without, changed)
        }
        assert len(bytes_) == 1


def test_no_events_and_no_queries_are_answered():
    log = random_log(SPEC, 0)
    impressions = with_content(log.impressions, log.posts, SPEC)
    for view in VIEWS:
        keys = impressions.select(list(view.keys))
        empty = count_as_of(impressions, view, keys.slice(0, 0), np.empty(0, np.int64), SPEC)
        assert empty.shape == (0,)
        cutoffs = np.full(len(keys), 2**60)
        nothing = count_as_of(impressions.slice(0, 0), view, keys, cutoffs, SPEC)
        assert nothing.tobytes() == np.repeat(view.default, len(keys)).tobytes()


def test_only_the_columns_a_view_needs_are_read():
    log = random_log(SPEC, 3)
    impressions = with_content(log.impressions, log.posts, SPEC)
    for view in VIEWS:
        keys, cutoffs = impressions.select(list(view.keys)), np.full(len(impressions), 2**60)
        narrow = count_as_of(impressions.select(counter_columns(view)), view, keys, cutoffs, SPEC)
        assert narrow.tobytes() == count_as_of(impressions, view, keys, cutoffs, SPEC).tobytes()
    assert windows(SPEC.view("affinity")) == [7, 30, 90, 365]
    assert windows(SPEC.view("post_popularity")) == []


def test_a_missing_column_is_one_sentence():
    log = random_log(SPEC, 0)
    view = SPEC.view("member_activity")
    impressions = log.impressions.drop_columns(["click"])
    with pytest.raises(ValueError, match="no column 'click'"):
        count_as_of(impressions, view, impressions, np.full(len(impressions), 2**60), SPEC)


def test_a_hundred_thousand_queries_take_no_loop():
    log = random_log(KUAIRAND, 0, rows=100_000, members=2_000, posts=900, days=300)
    impressions = with_content(log.impressions, log.posts, KUAIRAND)
    start = time.perf_counter()
    for view in KUAIRAND.views:
        if view.kind == "counters":
            count_as_of(impressions, view, impressions, column(impressions, "event_time"), KUAIRAND)
    assert time.perf_counter() - start < 10
