# SPDX-License-Identifier: Apache-2.0
"""The history values of a day."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components import histories as module
from components.events import column, history_order, with_content
from components.features import day_end
from components.histories import encode_histories, histories, history_batch
from components.layout import Layout
from feature_repo.spec import window_start
from serving.history import decode_history, encode_history
from tests.log_builders import Log, build_run, random_log, small_config, small_spec

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
    events = history_order(with_content(log.impressions, log.posts, SPEC))
    for day in days:
        end = day_end(SPEC, day)
        table = pq.read_table(layout.feature_day("history", day))
        for member, value in zip(*table.select(["member_id", "history"]).columns, strict=True):
            mine = (column(events, "member_id") == member.as_py()) & (
                column(events, "arrival_time") < end
            )
            batch = history_batch(events.filter(mine), SPEC)
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
    events = history_order(with_content(log.impressions, log.posts, SPEC))
    starts = set()
    for count in range(1, len(events) + 1):
        rows = events.slice(0, count).append_column("count", [np.full(count, count)])
        ((_, value),) = encode_histories(rows, SPEC)
        history = decode_history(value, SPEC)
        assert history.start == window_start(count, SPEC.max_impressions, SPEC.block)
        assert history.batch.num_rows <= SPEC.max_impressions + SPEC.block - 1
        starts.add(history.start)
    assert starts == set(range(0, len(events) - SPEC.max_impressions + 1, SPEC.block))


def test_an_unknown_post_gets_the_declared_defaults():
    log = random_log(SPEC, 7)
    events = history_order(with_content(log.impressions, log.posts, SPEC))
    batch = history_batch(events, SPEC)
    unknown = column(events, "post_id") == 9
    assert unknown.any()
    assert (column(batch, "actor_id")[unknown] == 0).all()
    assert (column(batch, "tag")[unknown] == -1).all()
    assert np.isnan(column(batch, "duration_s")[unknown]).all()
    dwell = column(events, "dwell_ms")
    np.testing.assert_array_equal(np.isnan(column(batch, "dwell_ms")), dwell < 0)


def test_without_impressions_it_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="run ingest first"):
        histories(Layout.at(tmp_path), "2022-05-01", CONFIG)


def one_members(count: int) -> pa.Table:
    """So many impressions of one member."""
    log = random_log(SPEC, 6, rows=60, members=1, days=3)
    return history_order(log.impressions).slice(0, count)


@pytest.mark.parametrize("count", [1, 12, 15, 16, 19, 20])
def test_a_window_is_whole_where_it_is_longest(tmp_path, count):
    """12 + 4 - 1 impressions are in it just before it slides."""
    layout, log = Layout.at(tmp_path), random_log(SPEC, 6)
    days = Log(SPEC, one_members(count), log.posts, log.members).write(layout)
    histories(layout, days[-1], CONFIG)
    value = pq.read_table(layout.feature_day("history", days[-1]))["history"][0].as_py()
    history = decode_history(value, SPEC)
    start = {1: 0, 12: 0, 15: 0, 16: 4, 19: 4, 20: 8}[count]
    assert (history.count, history.start, history.batch.num_rows) == (count, start, count - start)
    wanted = history_batch(with_content(one_members(count), log.posts, SPEC), SPEC)
    assert value == encode_history(wanted, member_id=1, count=count, spec=SPEC)


def test_each_member_has_their_own_rows_and_count():
    """Rows of three members in any order; each value says whose it is and how many there were."""
    log = random_log(SPEC, 8, rows=30, members=3)
    events = with_content(log.impressions, log.posts, SPEC)
    who = column(events, "member_id")
    mine = {m: history_order(events.filter(pa.array(who == m))) for m in (1, 2, 3)}
    counts = np.array([0, *map(len, mine.values())])
    rows = events.append_column("count", pa.array(counts[who]))
    assert len({len(t) for t in mine.values()}) == 3
    got = dict(encode_histories(rows.take(np.arange(len(rows))[::-1]), SPEC))
    assert list(got) == [1, 2, 3]
    for member, value in got.items():
        batch = history_batch(mine[member], SPEC)
        want = encode_history(batch, member_id=member, count=len(batch), spec=SPEC)
        assert value == want


def test_a_dwell_time_of_nothing_is_one_and_an_unknown_one_is_missing():
    log = random_log(SPEC, 7)
    events = history_order(with_content(log.impressions, log.posts, SPEC))
    place = events.schema.get_field_index("dwell_ms")
    dwell = pa.array([0, 1, None, *[2] * (len(events) - 3)], pa.int32())
    events = events.set_column(place, "dwell_ms", dwell)
    got = column(history_batch(events, SPEC), "dwell_ms")
    assert got[:4].tolist() == pytest.approx([0, 1, np.nan, 2], nan_ok=True)
    assert column(history_batch(events, SPEC), "click").tolist() == column(events, "click").tolist()


def test_the_files_of_a_day(tmp_path):
    layout, log = Layout.at(tmp_path), random_log(SPEC, 9, rows=60, members=4, days=2)
    for day in log.write(layout):
        arrived = pq.read_table(layout.impressions_day(day))["member_id"].to_pylist()
        assert histories(layout, day, CONFIG) == len(set(arrived))
        schema = pq.read_schema(layout.feature_day("history", day))
        assert schema.names == ["member_id", "event_timestamp", "created_timestamp", "history"]
        assert schema.field("event_timestamp").type == pa.timestamp("us", tz="UTC")
