# SPDX-License-Identifier: Apache-2.0
"""Ingest keeps what is right, refuses what is not with its reason, and loses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.config import PROFILES
from components.layout.files import write_parquet
from components.layout.paths import Layout
from components.log.checks import MAX_LATE_DAYS
from components.log.counts import IngestCounts
from components.log.duplicates import DIFFERS
from components.log.ingest import ingest
from feature_repo.spec import DAY_MS
from feature_repo.specs import KUAIRAND, SIMULATOR
from tests.raw_builders import (
    digest,
    make_impressions,
    make_posts,
    rows_of,
    set_value,
    set_values,
    stack,
    write_log,
)

CONFIG = PROFILES["demo"]
DAY, NEXT = "2026-02-03", "2026-02-04"
START = int(SIMULATOR.day_start(SIMULATOR.day_number(DAY)))
MINUTE = 60_000
KEPT_SCHEMA = SIMULATOR.impression_schema.append(pa.field("session_id", pa.int64(), nullable=False))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.at(tmp_path)


def run(layout: Layout, table: pa.Table, day: str = DAY, posts: int = 64) -> IngestCounts:
    """Writes one raw day and ingests it."""
    write_log(layout, SIMULATOR, {day: table}, posts)
    return ingest(layout, day, CONFIG)


def test_a_valid_day_is_kept_whole(layout: Layout) -> None:
    raw = make_impressions(SIMULATOR, DAY, 40)
    counts = run(layout, raw)
    kept = pq.read_table(layout.impressions_day(DAY))
    assert kept.schema == KEPT_SCHEMA
    assert (counts.read, counts.kept, counts.duplicates, counts.quarantined) == (40, 40, 0, {})
    assert kept.drop_columns("session_id").sort_by("post_id").equals(raw.sort_by("post_id"))
    keys = [
        (r["arrival_time"], r["event_time"], r["member_id"], r["post_id"]) for r in kept.to_pylist()
    ]
    assert keys == sorted(keys)
    assert pq.read_table(layout.quarantine_day(DAY)).num_rows == 0
    assert json.loads(layout.ingest_counts(DAY).read_text())["kept"] == 40
    assert counts.posts.kept == 64
    assert counts.members.kept == 7
    assert (counts.unknown_posts, counts.unknown_members, counts.late) == (0, 0, 0)


FAULTS: list[tuple[str, Any, str]] = [
    ("member_id", -1, "member_id is negative"),
    ("member_id", None, "member_id is null"),
    ("post_id", -5, "post_id is negative"),
    ("event_time", START + 2 * DAY_MS, "event_time is after arrival_time"),
    ("event_time", 1_700_000_000, "event_time is in seconds, not in milliseconds"),
    ("event_time", 946_684_799_999, "event_time is out of range"),
    ("event_time", 0, "event_time is out of range"),
    ("arrival_time", 1_770_109_200, "arrival_time is in seconds, not in milliseconds"),
    ("arrival_time", 4_102_444_800_000, "arrival_time is out of range"),
    ("arrival_time", 4_102_444_799_999, "arrival_time is after the day"),
    ("event_time", START - (MAX_LATE_DAYS + 1) * DAY_MS, "arrived more than 7 days late"),
    ("arrival_time", START + DAY_MS, "arrival_time is after the day"),
    ("arrival_time", 2**62, "arrival_time is out of range"),
    ("timed", None, "timed is null"),
    ("position", -2, "position is below -1"),
    ("dwell_ms", -1, "dwell_ms is negative"),
    ("click", 2, "click is not -1, 0 or 1"),
    ("share", -2, "share is not -1, 0 or 1"),
    ("like", None, "like is null"),
    ("surface", 4, "surface is not in [-1, 4)"),
    ("hour", -2, "hour is not in [-1, 24)"),
]


@pytest.mark.parametrize(("column", "value", "reason"), FAULTS)
def test_a_bad_row_goes_to_quarantine_with_its_reason(
    layout: Layout, column: str, value: Any, reason: str
) -> None:
    raw = set_value(make_impressions(SIMULATOR, DAY, 12), column, 5, value)
    counts = run(layout, raw)
    assert counts.quarantined == {reason: 1}
    assert counts.kept == 11
    refused = rows_of(layout.quarantine_day(DAY))
    assert refused == [{**raw.slice(5, 1).to_pylist()[0], "reason": reason}]


def test_an_arrival_before_the_day_is_refused_unless_untimed(layout: Layout) -> None:
    early = {"arrival_time": START - 2 * DAY_MS, "event_time": START - 2 * DAY_MS}
    raw = set_values(make_impressions(SIMULATOR, DAY, 6), 1, **early)
    raw = set_values(raw, 4, **early, timed=False)
    counts = run(layout, raw)
    assert counts.quarantined == {"arrival_time is before the day": 1}
    assert (counts.kept, counts.untimed, counts.late) == (5, 1, 0)


def test_unknown_values_are_kept(layout: Layout) -> None:
    raw = set_values(
        make_impressions(SIMULATOR, DAY, 6),
        2,
        **{"dwell_ms": None, "request_id": None, "position": -1, "surface": -1, "click": -1},
    )
    assert run(layout, raw).kept == 6


def test_duplicates_within_a_day_and_across_days(layout: Layout) -> None:
    raw = make_impressions(SIMULATOR, DAY, 10)
    later = set_values(raw.slice(3, 1), 0, arrival_time=START + DAY_MS - 1)
    other = set_values(raw.slice(4, 1), 0, like=1 - max(0, raw["like"][4].as_py()))
    first = run(layout, stack([raw, raw.slice(2, 2), later, other]))
    assert (first.duplicates, first.quarantined, first.kept) == (3, {DIFFERS: 1}, 10)
    again = set_values(raw.slice(0, 2), 0, arrival_time=START + DAY_MS + 5)
    again = set_values(
        again, 1, arrival_time=START + DAY_MS + 6, position=3 - raw["position"][1].as_py()
    )
    second = run(layout, stack([make_impressions(SIMULATOR, NEXT, 5), again]), NEXT)
    assert (second.duplicates, second.quarantined, second.kept) == (1, {DIFFERS: 1}, 5)
    kept = rows_of(layout.impressions_day(DAY))
    assert sorted(r["post_id"] for r in kept) == list(range(10))
    assert {r["arrival_time"] for r in kept} == set(raw["arrival_time"].to_pylist())


def test_late_events_keep_when_they_arrived(layout: Layout) -> None:
    late = set_values(make_impressions(SIMULATOR, DAY, 4), 0, event_time=START - 3 * DAY_MS)
    counts = run(layout, late)
    assert (counts.late, counts.kept) == (1, 4)
    kept_by_post = {r["post_id"]: r for r in rows_of(layout.impressions_day(DAY))}
    assert kept_by_post[0]["arrival_time"] == late["arrival_time"][0].as_py()


def test_unknown_posts_and_members_are_kept_and_counted(layout: Layout) -> None:
    raw = set_values(make_impressions(SIMULATOR, DAY, 10), 0, member_id=99)
    counts = run(layout, raw, posts=6)
    assert (counts.unknown_posts, counts.unknown_members, counts.kept) == (4, 1, 10)


SCHEMAS = {
    "raw_day": SIMULATOR.impression_schema,
    "raw_posts": SIMULATOR.post_schema,
    "raw_members": SIMULATOR.member_schema,
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_error_is_one_sentence_and_writes_nothing(layout: Layout, name: str) -> None:
    write_log(layout, SIMULATOR, {DAY: make_impressions(SIMULATOR, DAY, 4)})
    path = layout.raw_day(DAY) if name == "raw_day" else getattr(layout, name)
    good = pq.read_table(path)
    column = good.column_names[-1]
    text = pa.array(["x"] * good.num_rows)
    wanted = str(SCHEMAS[name].field(column).type)
    index = good.schema.get_field_index(column)
    cases = {
        "has no column": good.drop_columns(column),
        "is string, want": good.set_column(index, column, text),
    }
    for message, table in cases.items():
        write_parquet(path, table)
        with pytest.raises(ValueError, match=message) as error:
            ingest(layout, DAY, CONFIG)
        said = str(error.value)
        assert all(part in said for part in (str(path), column, wanted))
        assert "\n" not in said
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is not a Parquet file"):
        ingest(layout, DAY, CONFIG)
    path.unlink()
    with pytest.raises(ValueError, match="there is no file"):
        ingest(layout, DAY, CONFIG)
    assert not layout.impression_days()
    assert not layout.posts.exists()


UNITS = {"seconds": 1, "microseconds": 10**6, "nanoseconds": 10**9}


@pytest.mark.parametrize("column", ["event_time", "arrival_time", "created_ms"])
@pytest.mark.parametrize("unit", UNITS)
def test_a_column_in_another_unit_is_one_sentence_and_writes_nothing(
    layout: Layout, unit: str, column: str
) -> None:
    """All of it; where some of it is right, the others are refused alone."""
    tables = {"impressions": make_impressions(SIMULATOR, DAY, 4), "posts": make_posts(SIMULATOR, 4)}
    write_log(layout, SIMULATOR, {DAY: tables["impressions"]}, posts=4)
    name = "posts" if column == "created_ms" else "impressions"
    path = layout.raw_posts if name == "posts" else layout.raw_day(DAY)
    table = tables[name]
    for row in range(4):
        table = set_value(table, column, row, table[column][row].as_py() // 1000 * UNITS[unit])
    write_parquet(path, table)
    before = digest(layout.root)
    sentence = rf"{path}: {column} is \d+ to \d+ in 4 rows: .* read as {unit} it would be 20"
    with pytest.raises(ValueError, match=sentence) as error:
        ingest(layout, DAY, CONFIG)
    assert "\n" not in str(error.value)
    assert digest(layout.root) == before
    write_parquet(path, stack([table.slice(0, 3), tables[name].slice(3)]))
    counts = ingest(layout, DAY, CONFIG)
    refused = counts.posts if name == "posts" else counts
    assert refused.quarantined == {f"{column} is in {unit}, not in milliseconds": 3}
    assert refused.kept == 1


def test_a_damaged_column_is_one_sentence(layout: Layout) -> None:
    write_log(layout, SIMULATOR, {DAY: make_impressions(SIMULATOR, DAY, 2000)})
    path = layout.raw_day(DAY)
    data = bytearray(path.read_bytes())
    data[40:2000] = b"\xff" * 1960
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="cannot be read"):
        ingest(layout, DAY, CONFIG)


def test_a_day_that_is_not_a_day() -> None:
    with pytest.raises(ValueError, match="is not a day"):
        ingest(Layout.at("/nonexistent"), "yesterday", CONFIG)


def test_columns_the_spec_does_not_name_are_reported(layout: Layout) -> None:
    raw = make_impressions(SIMULATOR, DAY, 4).append_column("campaign", pa.array([1] * 4))
    assert run(layout, raw).ignored_columns == ["campaign"]


def test_an_empty_day(layout: Layout) -> None:
    counts = run(layout, SIMULATOR.impression_schema.empty_table())
    assert (counts.read, counts.kept, counts.sessions) == (0, 0, 0)
    assert pq.read_schema(layout.impressions_day(DAY)) == KEPT_SCHEMA


def test_the_other_spec(layout: Layout) -> None:
    raw = make_impressions(KUAIRAND, DAY, 20)
    write_log(layout, KUAIRAND, {DAY: raw})
    assert ingest(layout, DAY, PROFILES["kuairand"]).kept == 20
