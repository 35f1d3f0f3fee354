# SPDX-License-Identifier: Apache-2.0
"""A log that is not held in memory is checked like one that is: the same rows, sessions, counts."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.config import PROFILES
from components.layout.files import write_parquet
from components.layout.paths import Layout
from components.log import buckets, declarations
from components.log.columns import column
from components.log.ingest import ingest
from feature_repo.spec import DAY_MS
from feature_repo.specs import SIMULATOR
from tests.raw_builders import digest, make_impressions, make_posts, stack, write_log

DAYS = ("2026-02-03", "2026-02-04", "2026-02-05")
GAP = SIMULATOR.session_gap_ms
NAMES = SIMULATOR.impression_schema.names


def start(day: str) -> int:
    return int(SIMULATOR.day_start(SIMULATOR.day_number(day)))


@st.composite
def logs(draw: st.DrawFn) -> dict[str, pa.Table]:
    """Days of few members, with pauses, late rows, rows again and rows that are refused."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    seen: list[dict[str, Any]] = []
    days = {}
    for day in DAYS:
        rows = make_impressions(SIMULATOR, day, 30, seed=int(random.integers(9))).to_pylist()
        for row in rows:
            late = int(random.choice([0, 0, 0, 1, 3, 9])) * DAY_MS
            step = int(random.integers(0, 40)) * (GAP // 3)
            row["member_id"] = int(random.choice([-1, 3, 4, 5, 6, 2**62]))
            row["arrival_time"] = start(day) + step
            row["event_time"] = row["arrival_time"] - late - int(random.choice([0, 1, GAP]))
            row["request_id"] = row["request_id"] if random.random() < 0.2 else None
            row["timed"] = bool(random.random() < 0.9)
        again = [dict(seen[i]) for i in random.integers(0, len(seen), 8)] if seen else []
        for row in again:
            row["arrival_time"] = start(day) + int(random.integers(DAY_MS))
            row["position"] = max(-1, row["position"] - int(random.choice([0, 0, 1])))
        seen += rows
        days[day] = pa.Table.from_pylist(rows + again + rows[:3], SIMULATOR.impression_schema)
    return days


def posts_of_days(seed: int) -> dict[str, pa.Table]:
    """Declarations in any order: some again, some other ones of the same post."""
    random, declared = np.random.default_rng(seed), {}
    for day in DAYS:
        some = make_posts(SIMULATOR, 24, seed=1).take(random.integers(0, 24, 30))
        others = make_posts(SIMULATOR, 24, seed=5).take(random.integers(0, 24, 4))
        declared[day] = stack([some, others]).take(random.permutation(34))
    return declared


def as_counter(path: Path) -> Counter[tuple[Any, ...]]:
    return Counter(tuple(map(str, row.values())) for row in pq.read_table(path).to_pylist())


def ingest_all(layout: Layout, days: dict[str, pa.Table], posts: int, count: int) -> None:
    config = PROFILES["demo"].model_copy(update={"buckets": count})
    declared = posts_of_days(posts)
    write_log(layout, SIMULATOR, days)
    for day in DAYS:
        write_parquet(layout.raw_posts, declared[day])
        ingest(layout, day, config)


@settings(max_examples=25, deadline=None)
@given(logs(), st.integers(0, 2**32), st.integers(1, 5), st.sampled_from([1, 7, 20]))
def test_the_number_of_parts_does_not_matter(
    days: dict[str, pa.Table], posts: int, count: int, limit: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        held, parts = Layout.at(Path(folder, "held")), Layout.at(Path(folder, "parts"))
        ingest_all(held, days, posts, count)
        patch.setattr(buckets, "ROWS_IN_MEMORY", limit)
        patch.setattr(declarations, "POSTS_IN_MEMORY", limit)
        ingest_all(parts, days, posts, count)
        for name in digest(held.root):
            ours, theirs = held.root / name, parts.root / name
            if name.startswith("raw"):
                continue
            if name.endswith(".json"):
                assert ours.read_bytes() == theirs.read_bytes(), name
            elif name == "posts.parquet":
                assert pq.read_table(ours).equals(pq.read_table(theirs))
            else:
                assert as_counter(ours) == as_counter(theirs), name
        assert digest(held.root).keys() == digest(parts.root).keys()
        before = digest(parts.root)
        ingest_all(parts, days, posts, count)
        assert digest(parts.root) == before


def test_a_part_is_a_row_group_in_history_order(tmp_path: Path) -> None:
    layout, day = Layout.at(tmp_path), DAYS[0]
    write_log(layout, SIMULATOR, {day: make_impressions(SIMULATOR, day, 60)}, posts=50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "ROWS_IN_MEMORY", 20)
        patch.setattr(declarations, "POSTS_IN_MEMORY", 20)
        counts = ingest(layout, day, PROFILES["demo"].model_copy(update={"buckets": 3}))
    assert counts.kept == 60
    file = pq.ParquetFile(layout.impressions_day(day))
    assert file.num_row_groups == 3
    members: set[int] = set()
    for group in range(3):
        rows = file.read_row_group(group)
        assert rows.num_rows
        assert not members & set(column(rows, "member_id").tolist())
        members |= set(column(rows, "member_id").tolist())
        arrived = column(rows, "arrival_time").tolist()
        assert arrived == sorted(arrived)
    ids = pq.ParquetFile(layout.posts)
    assert ids.num_row_groups == 3
    assert column(ids.read(), "post_id").tolist() == list(range(50))
