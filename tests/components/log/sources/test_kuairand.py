# SPDX-License-Identifier: Apache-2.0
"""KuaiRand's two layouts become the same impressions."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.config import PROFILES
from components.layout.paths import Layout
from components.log.duplicates import DIFFERS
from components.log.ingest import ingest
from components.log.sources import detect_source, import_kuairand
from components.log.sources.kuairand_sql import ACTIVE_DEGREES, UPLOAD_TYPES
from feature_repo.spec import DAY_MS
from feature_repo.specs import KUAIRAND
from tests.kuairand_builders import ITEMS, MIDNIGHT, write_csv, write_partial
from tests.raw_builders import digest


def raw_rows(layout: Layout) -> list[dict[str, Any]]:
    tables = [pq.read_table(layout.raw_day(day)) for day in layout.raw_days()]
    assert all(table.schema == KUAIRAND.impression_schema for table in tables)
    return pa.concat_tables(tables).to_pylist()


def test_the_published_layout(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path / "run")
    counts = import_kuairand(write_csv(tmp_path / "download"), layout)
    assert counts.days == ("2022-04-23", "2022-04-25")
    assert (counts.impressions, counts.posts, counts.members) == (5, 3, 3)
    assert counts.notes == {"timed": 5}
    rows = raw_rows(layout)
    common = {"timed": True, "request_id": None, "position": -1}
    assert all(row.items() >= common.items() for row in rows)
    assert all(row["arrival_time"] == row["event_time"] for row in rows)
    assert rows[0] == {
        **common,
        "member_id": 1,
        "post_id": 10,
        "event_time": MIDNIGHT - 2 * DAY_MS,
        "arrival_time": MIDNIGHT - 2 * DAY_MS,
        "dwell_ms": 9000,
        "tab": 1,
        "hour": 0,
        "click": 1,
        "skip": 0,
        "long_dwell": 1,
        "like": 0,
        "comment": 0,
        "share": 0,
    }
    assert rows[1] == rows[2]
    picked = [(r["skip"], r["like"], r["comment"], r["share"], r["tab"], r["hour"]) for r in rows]
    assert picked[1:] == [
        (1, 1, 0, 0, 1, 0),
        (1, 1, 0, 0, 1, 0),
        (0, 0, 1, 0, 14, 3),
        (0, 0, 0, 1, -1, 23),
    ]
    _check_tables(layout)


def _check_tables(layout: Layout) -> None:
    posts = {r["post_id"]: r for r in pq.read_table(layout.raw_posts).to_pylist()}
    assert pq.read_schema(layout.raw_posts) == KUAIRAND.post_schema
    assert posts[10]["created_ms"] == 1_649_520_000_000
    assert (posts[10]["actor_id"], posts[10]["tag"], posts[10]["second_tag"]) == (1010, 39, 68)
    assert (posts[10]["upload_type"], posts[10]["music_type"]) == (0, 9)
    assert posts[10]["duration_s"] == pytest.approx(87.433)
    assert (posts[11]["upload_type"], posts[11]["music_type"], posts[11]["tag"]) == (-1, -1, 7)
    assert math.isnan(posts[11]["duration_s"])
    assert posts[12]["upload_type"] == UPLOAD_TYPES.index("PhotoCopy")
    assert (posts[12]["tag"], posts[12]["second_tag"]) == (-1, -1)
    members = {r["member_id"]: r for r in pq.read_table(layout.raw_members).to_pylist()}
    assert pq.read_schema(layout.raw_members) == KUAIRAND.member_schema
    assert (members[1]["active_degree"], members[1]["is_live_streamer"]) == (0, -1)
    assert (members[2]["active_degree"], members[2]["is_live_streamer"]) == (-1, 1)
    assert math.isnan(members[2]["register_days"])
    assert members[3]["active_degree"] == ACTIVE_DEGREES.index("day_new")
    assert (members[3]["follows"], members[3]["register_days"]) == (514.0, 5.0)


def test_the_partial_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.log.sources.kuairand.MIN_DAY_ROWS", 3)
    layout = Layout.at(tmp_path / "run")
    counts = import_kuairand(write_partial(tmp_path / "copy"), layout)
    assert counts.days == ("2022-04-23", "2022-04-24", "2022-04-25")
    assert counts.notes == {"timed": 5, "untimed": 6, "clamped_members": 1}
    rows = raw_rows(layout)
    timed = [r for r in rows if r["timed"]]
    twin = Layout.at(tmp_path / "twin")
    import_kuairand(write_csv(tmp_path / "download"), twin)
    assert timed == raw_rows(twin)
    _check_tables(layout)
    untimed = [r for r in rows if not r["timed"]]
    assert untimed == pq.read_table(layout.raw_day("2022-04-24")).to_pylist()
    unknown = ("click", "skip", "comment", "share", "tab", "hour", "position")
    assert all(r[name] == -1 for r in untimed for name in unknown)
    assert all((r["long_dwell"], r["like"], r["dwell_ms"]) == (1, 0, None) for r in untimed)
    times = {(r["member_id"], r["post_id"]): r["event_time"] for r in untimed}
    first = MIDNIGHT - 2 * DAY_MS
    assert [times[1, post] for post in (10, 11, 12)] == [first - 2001, first - 1001, first - 1]
    assert [times[2, 10], times[2, 11]] == [MIDNIGHT - 3 * DAY_MS - 1000, MIDNIGHT - 3 * DAY_MS]
    assert times[3, 10] == MIDNIGHT - 2 * DAY_MS
    results = [ingest(layout, day, PROFILES["kuairand"]) for day in layout.raw_days()]
    assert [(r.kept, r.duplicates, r.quarantined) for r in results] == [
        (1, 0, {}),
        (6, 0, {}),
        (3, 1, {}),
    ]


def test_the_same_bytes_again(tmp_path: Path) -> None:
    source = write_partial(tmp_path / "copy")
    for name in ("a", "b"):
        import_kuairand(source, Layout.at(tmp_path / name))
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_detection(tmp_path: Path) -> None:
    around = write_csv(tmp_path / "download")
    inner = around / "KuaiRand-Pure"
    for folder in (around, inner, inner / "data", write_partial(tmp_path / "copy")):
        assert detect_source(folder).name == "kuairand"
    with pytest.raises(ValueError, match="holds no log that is known"):
        detect_source(tmp_path)
    with pytest.raises(ValueError, match="there is no folder"):
        detect_source(tmp_path / "nowhere")


def test_a_video_only_the_log_knows(tmp_path: Path) -> None:
    folder = write_partial(tmp_path / "copy")
    pq.write_table(pa.Table.from_pylist(ITEMS[:2]), folder / "items.parquet")
    layout = Layout.at(tmp_path / "run")
    import_kuairand(folder, layout)
    post = pq.read_table(layout.raw_posts).to_pylist()[2]
    assert (post["post_id"], post["actor_id"], post["created_ms"]) == (12, 1012, -1)
    assert (post["tag"], post["upload_type"]) == (-1, -1)


@pytest.mark.kuairand
def test_the_real_log(tmp_path: Path) -> None:
    source = os.environ.get("FEEDSR_KUAIRAND", "")
    if not source or not Path(source).is_dir():
        pytest.skip("FEEDSR_KUAIRAND names no folder with KuaiRand")
    folder, layout = Path(source), Layout.at(tmp_path)
    began = time.perf_counter()
    counts = import_kuairand(folder, layout)
    results = [ingest(layout, day, PROFILES["kuairand"]) for day in layout.raw_days()]
    assert time.perf_counter() - began < 60
    assert counts.notes == {"timed": 185_177, "untimed": 817_187, "clamped_members": 3}
    assert (len(counts.days), counts.days[0]) == (12, "2022-04-24")
    distinct, impressions = duckdb.sql(f"""SELECT
        (SELECT count(*) FROM (SELECT DISTINCT * FROM '{folder}/impressions.parquet')),
        (SELECT count(*) FROM (SELECT DISTINCT user_id, video_id, time_ms
                               FROM '{folder}/impressions.parquet'))""").fetchall()[0]
    timed = sum(r.kept - r.untimed for r in results)
    refused = sum(r.quarantined.get(DIFFERS, 0) for r in results)
    assert distinct == 180_495
    assert timed == impressions == 180_129
    assert refused == 7 == sum(sum(r.quarantined.values()) for r in results)
    assert sum(r.duplicates for r in results) == 185_177 - timed - refused
    assert sum(r.untimed for r in results) == 817_187
    assert sum(r.unknown_posts + r.unknown_members for r in results) == 0
    order = duckdb.sql(f"""SELECT count(*) FROM (
        SELECT member_id, max(event_time) FILTER (NOT timed) AS last,
            min(event_time) FILTER (timed) AS first
        FROM read_parquet('{layout.root}/impressions/*/part.parquet') GROUP BY member_id)
        WHERE last >= first""").fetchall()
    assert order == [(0,)]
