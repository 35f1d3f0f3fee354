# SPDX-License-Identifier: Apache-2.0
"""The history values of a day."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.features import histories as module
from components.features.histories import histories
from components.features.history_columns import encode_histories, history_batch
from components.layout.paths import Layout
from components.log.columns import column
from components.log.impressions import history_order, with_content
from feature_repo.spec import window_start
from serving.history import decode_history, encode_history
from tests.log_builders import build_run, random_log, small_config, small_spec

SPEC = small_spec("kuairand")
CONFIG = small_config(SPEC)


@pytest.mark.law
@given(seed=st.integers(0, 2**32), chunk=st.sampled_from([1, 30, 10**6]))
@settings(deadline=None, max_examples=5)
def test_each_value_is_the_members_log_as_of_the_days_end(seed, chunk, tmp_path_factory):
    layout = Layout.at(tmp_path_factory.mktemp("run"))
    log = random_log(SPEC, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_ROWS", chunk)
        days = build_run(layout, log, CONFIG)
    impressions = history_order(with_content(log.impressions, log.posts, SPEC))
    for day in days:
        end = SPEC.day_end(day)
        table = pq.read_table(layout.feature_day("history", day))
        for member, value in zip(*table.select(["member_id", "history"]).columns, strict=True):
            mine = (column(impressions, "member_id") == member.as_py()) & (
                column(impressions, "arrival_time") < end
            )
            batch = history_batch(impressions.filter(mine), SPEC)
            expected = encode_history(batch, member_id=member.as_py(), count=len(batch), spec=SPEC)
            assert value.as_py() == expected


def test_members_without_news_have_no_row(tmp_path):
    layout = Layout.at(tmp_path)
    days = build_run(layout, random_log(SPEC, 5, rows=12, members=8), CONFIG)
    for day in days:
        rows = pq.read_table(layout.feature_day("history", day))["member_id"].to_pylist()
        arrived = pq.read_table(layout.impressions_day(day))["member_id"].to_pylist()
        assert rows == sorted(set(arrived))


def test_the_window_slides_in_blocks():
    log = random_log(SPEC, 6, rows=60, members=1, days=3)
    impressions = history_order(with_content(log.impressions, log.posts, SPEC))
    starts = set()
    for count in range(1, len(impressions) + 1):
        rows = impressions.slice(0, count).append_column("count", [np.full(count, count)])
        ((_, value),) = encode_histories(rows, SPEC)
        history = decode_history(value, SPEC)
        assert history.start == window_start(count, SPEC.max_impressions, SPEC.block)
        assert history.batch.num_rows <= SPEC.max_impressions + SPEC.block - 1
        starts.add(history.start)
    assert starts == set(range(0, len(impressions) - SPEC.max_impressions + 1, SPEC.block))


def test_an_unknown_post_gets_the_declared_defaults():
    log = random_log(SPEC, 7)
    impressions = history_order(with_content(log.impressions, log.posts, SPEC))
    batch = history_batch(impressions, SPEC)
    unknown = column(impressions, "post_id") == 9
    assert unknown.any()
    assert (column(batch, "actor_id")[unknown] == 0).all()
    assert (column(batch, "tag")[unknown] == -1).all()
    assert np.isnan(column(batch, "duration_s")[unknown]).all()
    dwell = column(impressions, "dwell_ms")
    np.testing.assert_array_equal(np.isnan(column(batch, "dwell_ms")), dwell < 0)


def test_without_impressions_it_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="run ingest first"):
        histories(Layout.at(tmp_path), "2022-05-01", CONFIG)
