# SPDX-License-Identifier: Apache-2.0
"""The history values of a day."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.features import histories as module
from components.features.histories import histories
from components.features.history_columns import encode_histories, history_batch
from components.layout.files import write_parquet
from components.layout.paths import Layout
from components.log.columns import column
from components.log.impressions import history_order, with_content
from feature_repo.spec import window_start
from serving.history import decode_history, encode_history
from tests.feature_files import read_histories
from tests.log_builders import Log, build_run, random_log, small_config, small_spec

SPEC = small_spec("kuairand")
CONFIG = small_config(SPEC)


def at_once(log: Log, end: int, posts: pa.Table) -> dict[int, bytes]:
    """Each member's value of all that arrived before a time, by the one-shot builder."""
    known = log.impressions.filter(pa.array(column(log.impressions, "arrival_time") < end))
    impressions = history_order(with_content(known, posts, SPEC))
    values = {}
    for member in np.unique(column(impressions, "member_id")).tolist():
        rows = impressions.filter(pa.array(column(impressions, "member_id") == member))
        batch = history_batch(rows, SPEC)
        values[member] = encode_history(batch, member_id=member, count=len(batch), spec=SPEC)
    return values


def files(layout: Layout) -> dict[str, bytes]:
    """What lies in the files of values, but for when the log's files were written."""
    return {
        path.name: repr(pq.read_table(path).to_pylist()).encode()
        for path in layout.history_buckets()
    }


@pytest.mark.law
@given(
    seed=st.integers(0, 2**32),
    chunk=st.sampled_from([1, 30, 10**6]),
    buckets=st.sampled_from([1, 3]),
    skipped=st.sets(st.integers(0, 4)),
)
@settings(deadline=None, max_examples=12)
def test_carried_day_by_day_is_built_at_once(seed, chunk, buckets, skipped, tmp_path_factory):
    layout = Layout.at(tmp_path_factory.mktemp("run"))
    config = small_config(SPEC, buckets=buckets)
    log = random_log(SPEC, seed, rows=200, days=5)
    days = log.write(layout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_ROWS", chunk)
        patch.setattr(module, "CHUNK_BYTES", chunk * 100)
        patch.setattr(module, "GROUP_ROWS", 2)
        for place, day in enumerate(days):
            if place in skipped and place != len(days) - 1:
                continue
            histories(layout, day, config)
            assert read_histories(layout) == at_once(log, SPEC.day_end(day), log.posts)
    carried = files(layout)
    assert histories(layout, days[-1], config) == histories(layout, days[0], config) == 0
    assert files(layout) == carried, "a day again, and an older one"
    shutil.rmtree(layout.feature_dir("history"))
    histories(layout, days[-1], config)
    assert files(layout) == carried, "a root without state is carried over at once"


@pytest.mark.law
def test_a_post_that_is_declared_late_is_known_in_the_windows_that_grow(tmp_path):
    layout, log = Layout.at(tmp_path), random_log(SPEC, 11, rows=90, days=3)
    days = log.write(layout)
    early = log.posts.filter(pa.array(column(log.posts, "post_id") % 2 == 0))
    write_parquet(layout.posts, early)
    histories(layout, days[-2], CONFIG)
    before = read_histories(layout)
    assert before == at_once(log, SPEC.day_end(days[-2]), early)
    write_parquet(layout.posts, log.posts)
    histories(layout, days[-1], CONFIG)
    now = at_once(log, SPEC.day_end(days[-1]), log.posts)
    grown = set(pq.read_table(layout.impressions_day(days[-1]))["member_id"].to_pylist())
    assert read_histories(layout) == before | {m: now[m] for m in grown}


@pytest.mark.law
def test_killed_between_two_buckets_it_goes_on(tmp_path, monkeypatch):
    layout, log = Layout.at(tmp_path), random_log(SPEC, 12, rows=120, members=9)
    config = small_config(SPEC, buckets=4)
    days = log.write(layout)
    histories(layout, days[-2], config)
    write, written = module.Buckets._write, []

    def dies(self, bucket, *rest):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(bucket)
        return write(self, bucket, *rest)

    monkeypatch.setattr(module.Buckets, "_write", dies)
    with pytest.raises(KeyboardInterrupt):
        histories(layout, days[-1], config)
    monkeypatch.undo()
    histories(layout, days[-1], config)
    assert read_histories(layout) == at_once(log, SPEC.day_end(days[-1]), log.posts)


@pytest.mark.law
def test_another_log_or_number_of_buckets_begins_anew(tmp_path):
    layout, log = Layout.at(tmp_path), random_log(SPEC, 13)
    days = log.write(layout)
    histories(layout, days[-1], CONFIG)
    other = dataclasses.replace(log, impressions=log.impressions.slice(0, 80))
    other.write(layout)
    for buckets in (CONFIG.buckets, 2, 1):
        histories(layout, days[-1], small_config(SPEC, buckets=buckets))
        assert len(layout.history_buckets()) == buckets
        assert read_histories(layout) == at_once(other, SPEC.day_end(days[-1]), log.posts)


def test_what_windows_drop_is_kept_for_some_days(tmp_path):
    layout, log = Layout.at(tmp_path), random_log(SPEC, 14, rows=300, members=2, days=16)
    days = log.write(layout)
    kept = {}
    for day in days:
        histories(layout, day, CONFIG)
        for path in sorted(layout.dropped_day(day).glob("*.parquet")):
            kept[day] = pq.read_table(path)
    rows = pa.concat_tables(kept.values())
    for member, value in read_histories(layout).items():
        start = decode_history(value, SPEC).start
        mine = rows.filter(pa.array(column(rows, "member_id") == member))
        first = int(column(mine, "index")[0])
        assert column(mine, "index").tolist() == list(range(first, start))
    left = sorted(p.name for p in layout.state("dropped").glob("day=*"))
    assert left[0] >= f"day={SPEC.days_after(days[-1], -module.DROPPED_DAYS)}"


def test_a_row_is_of_the_day_that_last_brought_the_member_news(tmp_path):
    layout = Layout.at(tmp_path)
    days = build_run(layout, random_log(SPEC, 5, rows=12, members=8), CONFIG)
    last = {}
    for day in days:
        for member in pq.read_table(layout.impressions_day(day))["member_id"].to_pylist():
            last[member] = SPEC.day_end(day) * 1000
    tables = pa.concat_tables(pq.read_table(path) for path in layout.history_buckets())
    times = tables["event_timestamp"].cast(pa.int64()).to_pylist()
    assert dict(zip(tables["member_id"].to_pylist(), times, strict=True)) == last


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
