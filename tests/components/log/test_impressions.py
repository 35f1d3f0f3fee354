# SPDX-License-Identifier: Apache-2.0
"""Checked impressions read back: in history order, beside their posts, as far as a day."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.layout.paths import Layout
from components.log import impressions as module
from components.log.columns import column
from components.log.impressions import (
    CONTENT_KEYS,
    ImpressionLog,
    Posts,
    bounded_duckdb,
    content_records,
    history_order,
    posts_of,
    read_members,
    read_posts,
    with_content,
)
from feature_repo.specs import SIMULATOR
from tests.log_builders import random_log, small_spec
from tests.raw_builders import make_posts

SPEC = small_spec("simulator")
KEYS = ("member_id", "arrival_time", "event_time", "post_id")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.at(tmp_path)


def test_a_table_that_is_not_there_says_what_to_run(layout: Layout) -> None:
    for read, path in ((read_posts, layout.posts), (read_members, layout.members)):
        with pytest.raises(ValueError, match=f"there is no {path}; run ingest first"):
            read(layout)
    with pytest.raises(ValueError, match=r"no impressions through 2022-04-18 in .*; run ingest"):
        ImpressionLog(layout, "2022-04-18")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.randoms(use_true_random=False))
def test_history_order_is_one_order_whatever_it_is_given(seed: int, random: object) -> None:
    """By member, then arrival, then time, then post; what is in order is returned as it is."""
    log = random_log(SPEC, seed, rows=30)
    places = list(range(log.impressions.num_rows))
    random.shuffle(places)  # type: ignore[attr-defined]
    ordered = history_order(log.impressions.take(places))
    keys = [tuple(row[k] for k in KEYS) for row in ordered.select(KEYS).to_pylist()]
    assert keys == sorted(keys)
    assert history_order(ordered) is ordered
    assert ordered.equals(history_order(log.impressions))


def test_content_is_that_of_the_post_or_the_default() -> None:
    """Posts in any order; ids below, between and above the known ones have none."""
    log = random_log(SPEC, 2)
    posts = log.posts.take([5, 0, 3])
    ids = np.array([2, 1, 4, 6, 0, 10**12, 4, 5, -1])
    got = content_records(posts, ids, SPEC)
    rows = {row["post_id"]: row for row in posts.to_pylist()}
    default = SPEC.content.default[0]
    assert set(rows) == {1, 4, 6}
    for post, record in zip(ids.tolist(), got, strict=True):
        if post not in rows:
            assert record.tobytes() == default.tobytes()
            continue
        assert record["actor_id"] == rows[post]["actor_id"]
        assert record["created_ms"] == rows[post]["created_ms"]
        assert record["content"].tolist() == [float(v) for v in rows[post]["content"]]


def test_the_content_is_put_beside_the_impressions() -> None:
    log = random_log(SPEC, 2)
    joined = with_content(log.impressions, log.posts, SPEC)
    assert joined.select(log.impressions.column_names).equals(log.impressions)
    added = joined.column_names[len(log.impressions.column_names) :]
    assert added[:3] == list(CONTENT_KEYS)
    assert set(added) == {*CONTENT_KEYS, *(f.name for f in SPEC.content.features)}
    content = content_records(log.posts, column(log.impressions, "post_id"), SPEC)
    for name in added:
        np.testing.assert_array_equal(column(joined, name), content[name])


def test_a_log_ends_with_its_day(layout: Layout) -> None:
    log = random_log(SPEC, 4)
    days = log.write(layout)
    arrived = SPEC.day(column(log.impressions, "arrival_time"))
    for day in days:
        with ImpressionLog(layout, day) as opened:
            (rows,) = opened.query("select count(*) as n from impressions")["n"].to_pylist()
        assert rows == (arrived <= SPEC.day_number(day)).sum()


def test_a_log_of_some_days_reads_no_other(layout: Layout) -> None:
    log = random_log(SPEC, 4)
    days = log.write(layout)
    arrived = SPEC.day(column(log.impressions, "arrival_time"))
    for wanted in (set(), {days[0]}, {days[0], days[-1], "2001-01-01"}):
        with ImpressionLog(layout, days[-1], wanted) as opened:
            rows = opened.query("select * from impressions").num_rows
            joined = opened.query("select actor_id from events").num_rows
        assert rows == joined == np.isin(arrived, [SPEC.day_number(d) for d in wanted]).sum()


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(-2, 45)), st.integers(1, 50), st.integers(0, 50))
def test_posts_of_some_ids_are_those_alone(wanted: set[int], group: int, held: int) -> None:
    """However they lie in the file; `Posts` may give others beside them."""
    posts = make_posts(SIMULATOR, 40)
    ids = np.array([*wanted, *wanted], np.int64)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        layout = Layout.at(folder)
        with pytest.raises(ValueError, match="run ingest first"):
            posts_of(layout, ids)
        pq.write_table(posts, layout.posts, row_group_size=group)
        some = posts_of(layout, ids)
        patch.setattr(module, "POSTS_HELD", held)
        more = Posts(layout).of(ids)
    assert some.equals(posts.filter(np.isin(column(posts, "post_id"), ids)))
    known = content_records(posts, ids, SIMULATOR)
    assert content_records(more, ids, SIMULATOR).tobytes() == known.tobytes()
    assert more.equals(posts if held >= 40 else some)


def test_a_query_spills_what_is_more_than_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY_MB", 160)
    monkeypatch.setattr(module, "THREAD_MB", 1)
    with bounded_duckdb() as connection:
        (place,) = connection.execute("select current_setting('temp_directory')").fetchone() or (
            "",
        )
        ordered = connection.execute(
            "select i from (select hash(i) h, i from range(12_000_000) t(i)) order by h"
        ).to_arrow_reader(1_000_000)
        assert ordered.read_next_batch().num_rows > 0
        spilled = [file.name for file in Path(place).iterdir()]
    assert len(spilled) > 1
    del ordered
    assert [file.name for file in Path(place).iterdir()] == [".held"]


def test_the_authors_of_many_posts_are_read_by_the_query(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    day, sql = random_log(SPEC, 4).write(layout)[-1], "select * from events order by all"
    with ImpressionLog(layout, day) as opened:
        held = opened.query(sql)
    monkeypatch.setattr(module, "POSTS_HELD", 1)
    with ImpressionLog(layout, day) as opened:
        assert opened.query(sql).equals(held)


def test_impressions_stand_beside_their_actors(layout: Layout) -> None:
    """0 where the post is unknown: a key that no actor has."""
    log = random_log(SPEC, 4)
    day = log.write(layout)[-1]
    posts, makers = (column(log.posts, name).tolist() for name in ("post_id", "actor_id"))
    actors = dict(zip(posts, makers, strict=True))
    with ImpressionLog(layout, day) as opened:
        rows = opened.query("select post_id, actor_id, root_actor_id from events").to_pylist()
        assert len(rows) == log.impressions.num_rows
        assert opened.posts.equals(log.posts)
        wanted = pa.table({"post_id": pa.array([2], pa.int64())})
        some = opened.query("select * from events semi join wanted using (post_id)", wanted=wanted)
    assert {row["actor_id"] == actors.get(row["post_id"], 0) for row in rows} == {True}
    assert {row["post_id"] in actors for row in rows} == {True, False}
    assert set(some["post_id"].to_pylist()) == {2}


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), max_size=20), st.integers(1, 50))
def test_chunks_hold_every_member_once_in_order(counts: list[int], rows: int) -> None:
    """A chunk that holds more than was asked for does so by its last member alone, or its first."""
    members = np.arange(len(counts), dtype=np.int64) * 3
    chunks = list(ImpressionLog.member_chunks(members, np.array(counts, np.int64), rows))
    taken = [m for chunk in chunks for m in chunk["member_id"].to_pylist()]
    assert taken == members.tolist()
    size = dict(zip(members.tolist(), counts, strict=True))
    for chunk in chunks:
        sizes = [size[m] for m in chunk["member_id"].to_pylist()]
        assert len(sizes) > 0
        assert sum(sizes[1:]) < rows
