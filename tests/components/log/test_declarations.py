# SPDX-License-Identifier: Apache-2.0
"""The first declaration of a post stands, and a member's last; the others are accounted for."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components.config import PROFILES
from components.layout.files import write_parquet
from components.layout.paths import Layout
from components.log.declarations import DECLARED, ingest_members, ingest_posts
from components.log.ingest import ingest
from feature_repo.specs import SIMULATOR
from tests.raw_builders import (
    make_impressions,
    make_members,
    make_posts,
    rows_of,
    set_value,
    set_values,
    stack,
    write_log,
)

CONFIG = PROFILES["demo"]
DAY, NEXT = "2026-02-03", "2026-02-04"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.at(tmp_path)


def test_the_ids_are_returned_as_they_are_written(layout: Layout) -> None:
    write_parquet(layout.raw_posts, make_posts(SIMULATOR, 3).take([2, 0, 1, 0]))
    write_parquet(layout.raw_members, make_members(SIMULATOR, 2).take([1, 0]))
    posts, post_counts = ingest_posts(layout, SIMULATOR, DAY)
    members, member_counts = ingest_members(layout, SIMULATOR)
    for ids, path, schema in (
        (posts, layout.posts, SIMULATOR.post_schema),
        (members, layout.members, SIMULATOR.member_schema),
    ):
        table = pq.read_table(path)
        assert table.schema == schema
        assert table.column(0).to_pylist() == ids.tolist()
    assert members.tolist() == [0, 1]
    assert (post_counts.read, post_counts.kept, post_counts.duplicates) == (4, 3, 1)
    assert (member_counts.read, member_counts.kept, member_counts.replaced) == (2, 2, 0)


def test_posts_the_first_declaration_stands_members_the_last(layout: Layout) -> None:
    write_log(layout, SIMULATOR, {DAY: make_impressions(SIMULATOR, DAY, 4)})
    posts, members = make_posts(SIMULATOR, 8), make_members(SIMULATOR, 5)
    other = set_values(posts.slice(3, 1), 0, media=(posts["media"][3].as_py() + 2) % 6)
    bad = set_values(posts.slice(4, 1), 0, post_id=90, content=[float("nan")] * 50)
    hole = set_values(posts.slice(4, 1), 0, post_id=91, content=[None] * 50)
    absent = set_values(posts.slice(4, 1), 0, post_id=92, content=None)
    write_parquet(
        layout.raw_posts,
        stack([posts, posts.slice(0, 1), other, bad, hole, absent]),
    )
    moved = set_values(members.slice(1, 1), 0, connections=77.0)
    wrong = set_values(members.slice(2, 1), 0, connections=float("inf"))
    write_parquet(layout.raw_members, stack([members, members.slice(0, 1), moved, wrong]))
    counts = ingest(layout, DAY, CONFIG)
    assert counts.posts.quarantined == {
        DECLARED: 1,
        "content has a null in it": 1,
        "content is not finite": 1,
        "content is null": 1,
    }
    assert (counts.posts.kept, counts.posts.duplicates) == (8, 1)
    assert pq.read_table(layout.posts).equals(posts)
    assert (counts.members.kept, counts.members.duplicates, counts.members.replaced) == (5, 1, 1)
    assert counts.members.quarantined == {"connections is infinite": 1}
    kept = rows_of(layout.members)
    assert kept[1]["connections"] == 77.0
    assert [r["member_id"] for r in kept] == list(range(5))
    assert len(rows_of(layout.root / "quarantine" / "posts.parquet")) == 4


def test_what_an_earlier_day_declared_stands(layout: Layout) -> None:
    """Histories and counters were built with it: content that changes would reach the past."""
    posts = make_posts(SIMULATOR, 8)
    write_log(layout, SIMULATOR, {d: make_impressions(SIMULATOR, d, 4) for d in (DAY, NEXT)})
    write_parquet(layout.raw_posts, posts.slice(0, 6))
    ingest(layout, DAY, CONFIG)
    before = pq.read_table(layout.posts)
    other = (posts["media"][3].as_py() + 2) % 6
    # Post 2 is no longer in the table, post 3 is another, posts 6 and 7 are new.
    later = stack(
        [posts.slice(0, 2), set_values(posts.slice(3), 0, media=other), posts.slice(0, 1)]
    )
    write_parquet(layout.raw_posts, later)
    for _ in range(2):
        counts = ingest(layout, NEXT, CONFIG).posts
        assert (counts.kept, counts.duplicates, counts.quarantined) == (6, 1, {DECLARED: 1})
        after = pq.read_table(layout.posts)
        assert after.slice(0, 6).equals(before)
        assert after["post_id"].to_pylist() == list(range(8))
    assert ingest(layout, DAY, CONFIG).posts.quarantined == {}
    assert pq.read_table(layout.posts)["media"][2].as_py() == other


def test_numeric_nan_is_missing_and_is_kept(layout: Layout) -> None:
    write_log(layout, SIMULATOR, {DAY: make_impressions(SIMULATOR, DAY, 4)})
    posts = set_values(make_posts(SIMULATOR, 3), 1, length_s=float("nan"), created_ms=-1)
    write_parquet(layout.raw_posts, stack([posts, posts.slice(1, 1)]))
    counts = ingest(layout, DAY, CONFIG)
    assert (counts.posts.kept, counts.posts.duplicates) == (3, 1)


def test_posts_of_an_unknown_or_impossible_creation(layout: Layout) -> None:
    posts = make_posts(SIMULATOR, 6)
    for row, time in enumerate([-1, -2, 0, 946_684_799_999, 4_102_444_800_000]):
        posts = set_value(posts, "created_ms", row, time)
    write_log(layout, SIMULATOR, {DAY: make_impressions(SIMULATOR, DAY, 4)})
    write_parquet(layout.raw_posts, posts)
    counts = ingest(layout, DAY, CONFIG).posts
    assert (counts.kept, counts.quarantined) == (2, {"created_ms is out of range": 4})
    assert pq.read_table(layout.posts)["post_id"].to_pylist() == [0, 5]
