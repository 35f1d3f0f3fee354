# SPDX-License-Identifier: Apache-2.0
"""Windows after new impressions, and the impressions that they hold and drop."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.features.history_columns import encode_histories
from components.features.window_state import (
    INDEX,
    can_carry,
    slide,
    values_schema,
    window_rows,
    window_rows_schema,
)
from components.log.columns import column
from components.log.impressions import history_order, with_content
from serving.history import decode_history
from tests.log_builders import random_log, small_spec

SPEC = small_spec("kuairand")


@pytest.mark.law
@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(0, 160), max_size=4))
@settings(deadline=None, max_examples=15)
def test_in_any_steps_they_are_what_one_step_gives(seed, cuts):
    log = random_log(SPEC, seed, rows=160)
    ordered = log.impressions.sort_by(
        [(name, "ascending") for name in ("arrival_time", "event_time", "post_id")]
    )
    values, dropped = values_schema().empty_table(), []
    stops = sorted({0, *(min(c, ordered.num_rows) for c in cuts), ordered.num_rows})
    for first, end in itertools.pairwise(stops):
        slid = slide(values, ordered.slice(first, end - first), lambda _: log.posts, SPEC)
        values, dropped = slid.values, [*dropped, slid.dropped]
    once = slide(values_schema().empty_table(), ordered, lambda _: log.posts, SPEC)
    assert values.equals(once.values)
    members, counts = np.unique(column(ordered, "member_id"), return_counts=True)
    counted = with_content(ordered, log.posts, SPEC)
    place = np.searchsorted(members, column(ordered, "member_id"))
    expected = encode_histories(counted.append_column("count", pa.array(counts[place])), SPEC)
    assert dict(zip(*(values[n].to_pylist() for n in ("member_id", "history")), strict=True)) == (
        dict(expected)
    )
    held = pa.concat_tables([*dropped, window_rows(values, SPEC)])
    held = held.sort_by([("member_id", "ascending"), (INDEX, "ascending")])
    assert held.schema == window_rows_schema(SPEC)
    assert column(held, "post_id").tolist() == column(history_order(ordered), "post_id").tolist()


def test_nobody_without_news_is_touched():
    log = random_log(SPEC, 3, rows=60, members=6)
    values = slide(values_schema().empty_table(), log.impressions, lambda _: log.posts, SPEC).values
    still = slide(values, log.impressions.slice(0, 0), lambda _: log.posts, SPEC)
    assert still.values is values
    assert (still.dropped.num_rows, still.grown) == (0, 0)


@pytest.mark.slow
def test_a_member_with_very_many_impressions_on_one_day():
    log = random_log(SPEC, 4, rows=40, members=2)
    most = 100_000
    one = log.impressions.filter(pa.array(column(log.impressions, "member_id") == 1)).slice(0, 1)
    many = one.take(np.zeros(most, np.int64))
    time = column(one, "arrival_time")[0] + np.arange(most)
    place = many.schema.get_field_index("arrival_time")
    many = many.set_column(place, many.schema.field(place), pa.array(time))
    slid = slide(values_schema().empty_table(), many, lambda _: log.posts, SPEC)
    history = decode_history(slid.values["history"][0].as_py(), SPEC)
    assert history.count == most
    assert slid.dropped.num_rows == history.start
    assert column(history.batch, "arrival_time").tolist() == time[history.start :].tolist()


def test_a_window_that_names_no_posts_cannot_be_carried():
    without = tuple(f for f in SPEC.features if f.name != "post_id")
    assert can_carry(SPEC)
    assert not can_carry(dataclasses.replace(SPEC, features=without))
