# SPDX-License-Identifier: Apache-2.0
"""History values of logs that are cut by hand: the longest windows, several members, no dwell."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.features.histories import histories
from components.features.history_columns import encode_histories, history_batch
from components.layout.paths import Layout
from components.log.columns import column
from components.log.impressions import history_order, with_content
from serving.history import decode_history, encode_history
from tests.feature_files import read_histories
from tests.log_builders import Log, random_log, small_config, small_spec

SPEC = small_spec("kuairand")
CONFIG = small_config(SPEC)


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
    (value,) = read_histories(layout).values()
    history = decode_history(value, SPEC)
    start = {1: 0, 12: 0, 15: 0, 16: 4, 19: 4, 20: 8}[count]
    assert (history.count, history.start, history.batch.num_rows) == (count, start, count - start)
    wanted = history_batch(with_content(one_members(count), log.posts, SPEC), SPEC)
    assert value == encode_history(wanted, member_id=1, count=count, spec=SPEC)


def test_each_member_has_their_own_rows_and_count():
    """Rows of three members in any order; each value says whose it is and how many there were."""
    log = random_log(SPEC, 8, rows=30, members=3)
    impressions = with_content(log.impressions, log.posts, SPEC)
    who = column(impressions, "member_id")
    mine = {m: history_order(impressions.filter(pa.array(who == m))) for m in (1, 2, 3)}
    counts = np.array([0, *map(len, mine.values())])
    rows = impressions.append_column("count", pa.array(counts[who]))
    assert len({len(t) for t in mine.values()}) == 3
    got = dict(encode_histories(rows.take(np.arange(len(rows))[::-1]), SPEC))
    assert list(got) == [1, 2, 3]
    for member, value in got.items():
        batch = history_batch(mine[member], SPEC)
        want = encode_history(batch, member_id=member, count=len(batch), spec=SPEC)
        assert value == want


def test_a_dwell_time_of_nothing_is_one_and_an_unknown_one_is_missing():
    log = random_log(SPEC, 7)
    impressions = history_order(with_content(log.impressions, log.posts, SPEC))
    place = impressions.schema.get_field_index("dwell_ms")
    dwell = pa.array([0, 1, None, *[2] * (len(impressions) - 3)], pa.int32())
    impressions = impressions.set_column(place, "dwell_ms", dwell)
    got = column(history_batch(impressions, SPEC), "dwell_ms")
    assert got[:4].tolist() == pytest.approx([0, 1, np.nan, 2], nan_ok=True)
    assert (
        column(history_batch(impressions, SPEC), "click").tolist()
        == column(impressions, "click").tolist()
    )


def test_the_files_of_a_day(tmp_path):
    layout, log = Layout.at(tmp_path), random_log(SPEC, 9, rows=60, members=4, days=2)
    for day in log.write(layout):
        arrived = pq.read_table(layout.impressions_day(day))["member_id"].to_pylist()
        assert histories(layout, day, CONFIG) == len(set(arrived))
        schema = pq.read_schema(layout.history_bucket(0))
        assert schema.names == ["member_id", "event_timestamp", "created_timestamp", "history"]
        assert schema.field("event_timestamp").type == pa.timestamp("us", tz="UTC")


def test_what_an_impression_and_its_post_say_is_in_the_history():
    log = random_log(SPEC, 7)
    impressions = history_order(with_content(log.impressions, log.posts, SPEC))
    batch = history_batch(impressions, SPEC)
    same = set(SPEC.history_schema.names) - {"dwell_ms"}
    assert same >= {"tab", "hour", "tag", "actor_id", "post_id", "session_id", "like", "position"}
    for name in same:
        np.testing.assert_array_equal(column(batch, name), column(impressions, name), err_msg=name)
    assert len(set(column(batch, "tab").tolist())) > 2
    early = history_batch(impressions.drop_columns(["tab", "hour"]), SPEC)
    assert set(column(early, "tab").tolist()) == {-1}
    hours = (column(impressions, "event_time") // 3_600_000 + SPEC.utc_offset_hours) % 24
    assert column(early, "hour").tolist() == hours.tolist()
