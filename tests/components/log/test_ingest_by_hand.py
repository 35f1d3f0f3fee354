# SPDX-License-Identifier: Apache-2.0
"""A day of twelve rows whose counts are known by hand, and how far back ingest looks."""

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
from components.log.declarations import DECLARED
from components.log.duplicates import DIFFERS
from components.log.ingest import ingest
from components.log.sessions import mix
from feature_repo.specs import SIMULATOR
from tests.raw_builders import make_impressions, make_members, make_posts

CONFIG = PROFILES["demo"]
DAY_MS = 24 * 60 * 60 * 1000
START = 1_770_076_800_000
"""2026-02-03, midnight UTC."""
DAY = "2026-02-03"
GAP = SIMULATOR.session_gap_ms
BASE = make_impressions(SIMULATOR, DAY, 1).to_pylist()[0] | {"timed": True, "position": 3}


def row(member: int, post: int, event: int, arrival: int, **values: Any) -> dict[str, Any]:
    keys = {"member_id": member, "post_id": post, "event_time": event, "arrival_time": arrival}
    return {**BASE, "request_id": None, **keys, **values}


def write(layout: Layout, day: str, *rows: dict[str, Any]) -> None:
    write_parquet(
        layout.raw_day(day), pa.Table.from_pylist(list(rows), SIMULATOR.impression_schema)
    )


def kept(layout: Layout, day: str) -> list[dict[str, Any]]:
    return pq.read_table(layout.impressions_day(day)).to_pylist()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout.at(tmp_path)
    write_parquet(layout.raw_posts, make_posts(SIMULATOR, 8))
    write_parquet(layout.raw_members, make_members(SIMULATOR, 5))
    return layout


def test_a_days_counts(layout: Layout) -> None:
    noon = START + DAY_MS // 2
    rows = [
        row(1, 7, noon, noon + 5, request_id=40),
        row(1, 2, noon, noon + 6, request_id=40),
        row(1, 3, START, noon + 1),
        row(1, 4, START - 1, noon),
        row(2, 5, START - 9, noon - 7),
        row(2, 6, START - 3 * DAY_MS, noon - 8, timed=False),
        row(3, 6, START - 3 * DAY_MS, START - 2 * DAY_MS, timed=False),
        row(3, 8, noon, noon + 2),
        row(9, 1, noon, noon + 3),
        row(1, 7, noon, noon + 9, request_id=40),
        row(1, 2, noon, noon + 7, request_id=40, position=5),
        row(1, 0, noon, noon - 1),
    ]
    table = pa.Table.from_pylist(rows, SIMULATOR.impression_schema)
    write_parquet(layout.raw_day(DAY), table.append_column("campaign", pa.array(range(12))))
    more = make_posts(SIMULATOR, 8).append_column("title", pa.array(["x"] * 8))
    write_parquet(layout.raw_posts, more)
    counts = ingest(layout, DAY, CONFIG)
    none = {"duplicates": 0, "replaced": 0, "quarantined": {}}
    wanted = {
        "day": DAY,
        "read": 12,
        "kept": 9,
        "duplicates": 1,
        "quarantined": {DIFFERS: 1, "event_time is after arrival_time": 1},
        "late": 2,
        "untimed": 2,
        "unknown_posts": 1,
        "unknown_members": 1,
        "sessions": 7,
        "ignored_columns": ["campaign", "title"],
        "posts": {"read": 8, "kept": 8, **none},
        "members": {"read": 5, "kept": 5, **none},
    }
    assert json.loads(layout.ingest_counts(DAY).read_text()) == wanted
    assert (counts.read, counts.late, counts.posts.kept) == (12, 2, 8)
    kept_rows = kept(layout, DAY)
    assert [(r["member_id"], r["post_id"]) for r in kept_rows] == [
        *((3, 6), (2, 6), (2, 5), (1, 4), (1, 3), (3, 8), (9, 1), (1, 7), (1, 2)),
    ]
    sessions = {(r["member_id"], r["post_id"]): r["session_id"] for r in kept_rows}
    assert sessions[1, 7] == sessions[1, 2] == int(mix(1, 1, 40)[0])
    assert sessions[1, 4] == sessions[1, 3] == int(mix(3, 1, START - 1)[0])
    assert sessions[2, 6] == int(mix(2, 2, START - 3 * DAY_MS, 6)[0])
    assert sessions[2, 5] == int(mix(3, 2, START - 9)[0])
    refused = pq.read_table(layout.quarantine_day(DAY)).to_pylist()
    assert [(r["post_id"], r["reason"]) for r in refused] == [
        (2, DIFFERS),
        (0, "event_time is after arrival_time"),
    ]


@pytest.mark.parametrize(("days", "again"), [(1, True), (7, True), (8, False)])
def test_duplicates_are_looked_for_seven_days_back(layout: Layout, days: int, again: bool) -> None:
    """A row is known again by the day that it arrived on; untimed ones may be older than a week."""
    before = SIMULATOR.day_name(SIMULATOR.day_number(DAY) - days)
    time_ms = START - days * DAY_MS + 5
    old = row(1, 2, time_ms, time_ms + 1, timed=False)
    write(layout, before, old, row(2, 2, time_ms, time_ms))
    ingest(layout, before, CONFIG)
    noon = START + DAY_MS // 2
    write(layout, DAY, {**old, "arrival_time": noon}, row(2, 3, noon, noon))
    counts = ingest(layout, DAY, CONFIG)
    assert (counts.duplicates, counts.kept) == ((1, 1) if again else (0, 2))


@pytest.mark.parametrize(("pause", "same"), [(GAP - 1, True), (GAP, True), (GAP + 1, False)])
@pytest.mark.parametrize("late", [False, True])
def test_a_session_goes_on_over_midnight_up_to_the_gap(
    layout: Layout, pause: int, same: bool, late: bool
) -> None:
    """Of the gapped rows alone: a request near them is a session of its own."""
    before = SIMULATOR.day_name(SIMULATOR.day_number(DAY) - 1)
    last = START - 3
    write(
        layout,
        before,
        row(1, 1, last - 60_000, last),
        row(1, 2, last, last),
        row(1, 3, last, last, request_id=4),
        row(2, 4, last, last),
    )
    ingest(layout, before, CONFIG)
    rows = [row(1, 5, last + pause, last + pause)]
    if late:
        rows.append(row(1, 6, last - 4 * DAY_MS, START + 9))
    write(layout, DAY, *rows)
    ingest(layout, DAY, CONFIG)
    sessions = {r["post_id"]: r["session_id"] for r in kept(layout, before) + kept(layout, DAY)}
    assert sessions[1] == sessions[2] == int(mix(3, 1, last - 60_000)[0])
    assert (sessions[5] == sessions[2]) is same
    assert len({sessions[n] for n in (2, 3, 4)}) == 3


def test_the_first_to_arrive_stands_whatever_its_place(layout: Layout) -> None:
    """An earlier day's row before any of today's, though today's says that it arrived before."""
    before = SIMULATOR.day_name(SIMULATOR.day_number(DAY) - 1)
    served = START - 2 * DAY_MS
    write(layout, before, row(1, 2, served, START - 5, position=1), row(1, 3, served, START - 9))
    ingest(layout, before, CONFIG)
    early = row(1, 2, served, START - 7, timed=False, position=2)
    write(layout, DAY, early, row(1, 3, served, START + 4), row(1, 4, served, START + 4))
    counts = ingest(layout, DAY, CONFIG)
    assert (counts.kept, counts.duplicates, counts.quarantined) == (1, 1, {DIFFERS: 1})


@pytest.mark.parametrize(
    ("column", "value"),
    [("position", 4), ("request_id", 7), ("dwell_ms", None), ("dwell_ms", 0), ("timed", False)],
)
def test_a_difference_in_any_column_is_one(layout: Layout, column: str, value: Any) -> None:
    """A null is not the 0 that stands for it elsewhere."""
    noon = START + DAY_MS // 2
    impression = row(1, 2, noon, noon, dwell_ms=5, request_id=3)
    other = {**impression, column: value}
    for first, second in ((impression, other), (other, impression)):
        write(layout, DAY, first, {**second, "arrival_time": noon + 1})
        counts = ingest(layout, DAY, CONFIG)
        assert (counts.kept, counts.quarantined) == (1, {DIFFERS: 1})
    write(layout, DAY, impression, {**impression, "arrival_time": noon + 1})
    assert ingest(layout, DAY, CONFIG).duplicates == 1
    null, nothing = ({**impression, "dwell_ms": v, "arrival_time": noon + 2} for v in (None, 0))
    write(layout, DAY, null, nothing)
    assert ingest(layout, DAY, CONFIG).quarantined == {DIFFERS: 1}


@pytest.mark.parametrize("column", ["event_time", "arrival_time"])
def test_times_in_seconds_write_nothing(layout: Layout, column: str) -> None:
    noon = START + DAY_MS // 2
    rows = [{**row(1, post, noon, noon), column: noon // 1000} for post in (1, 2)]
    write(layout, DAY, *rows)
    with pytest.raises(ValueError, match=f"impressions.parquet: {column} is 1770120000 in 2 rows"):
        ingest(layout, DAY, CONFIG)
    assert not layout.posts.exists()
    write(layout, DAY, rows[0], row(1, 3, noon, noon))
    assert ingest(layout, DAY, CONFIG).kept == 1


def test_the_first_day_begins_the_posts_anew_and_no_later_one_does(layout: Layout) -> None:
    number = SIMULATOR.day_number(DAY)
    days = [SIMULATOR.day_name(number + i) for i in range(3)]
    for i, day in enumerate(days):
        noon = START + i * DAY_MS + DAY_MS // 2
        write(layout, day, row(1, i, noon, noon))
    posts = make_posts(SIMULATOR, 3).to_pylist()
    # Each run brings another length of post 1; which one stands after it.
    for length, (day, stands) in enumerate(
        [(0, 0), (0, 1), (1, 1), (2, 1), (1, 1), (2, 1), (0, 6), (1, 6)]
    ):
        posts[1] = {**posts[1], "length_s": float(length)}
        write_parquet(layout.raw_posts, pa.Table.from_pylist(posts, SIMULATOR.post_schema))
        counts = ingest(layout, days[day], CONFIG).posts
        assert pq.read_table(layout.posts)["length_s"][1].as_py() == stands
        assert counts.quarantined == ({} if stands == length else {DECLARED: 1})
    layout.posts.unlink()
    assert ingest(layout, days[1], CONFIG).posts.quarantined == {}


def test_the_oldest_of_several_late_rows_is_known_again(layout: Layout) -> None:
    before = SIMULATOR.day_name(SIMULATOR.day_number(DAY) - 3)
    served = [START - 3 * DAY_MS + 5, START - 3 * DAY_MS + 5000]
    old = [row(1, post, time, time + 1, request_id=9) for post, time in enumerate(served, 1)]
    write(layout, before, *old)
    ingest(layout, before, CONFIG)
    again = [{**impression, "arrival_time": START + 7} for impression in old]
    write(layout, DAY, *again, row(1, 3, START - 9, START + 8, request_id=9))
    counts = ingest(layout, DAY, CONFIG)
    assert (counts.duplicates, counts.kept) == (2, 1)
    table = pq.read_table(layout.impressions_day(before)).drop_columns(["position"])
    write_parquet(layout.impressions_day(before), table)
    with pytest.raises(ValueError, match=r"part\.parquet has no column 'position'"):
        ingest(layout, DAY, CONFIG)
