# SPDX-License-Identifier: Apache-2.0
"""Ingest keeps what is right, refuses what is not with its reason, and loses nothing."""

from __future__ import annotations

import json
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
from components.log.checks import MAX_LATE_DAYS
from components.log.ingest import DECLARED, DIFFERS, IngestCounts, ingest
from components.log.sessions import NO_SESSION, gap_sessions, mix
from feature_repo.spec import DAY_MS
from feature_repo.specs import KUAIRAND, SIMULATOR
from tests.raw_builders import (
    digest,
    make_impressions,
    make_members,
    make_posts,
    set_value,
    stack,
    write_log,
)

CONFIG = PROFILES["demo"]
DAY, NEXT = "2026-02-03", "2026-02-04"
START = int(SIMULATOR.day_start(SIMULATOR.day_number(DAY)))
MINUTE = 60_000
KEPT_SCHEMA = SIMULATOR.event_schema.append(pa.field("session_id", pa.int64(), nullable=False))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.at(tmp_path)


def run(layout: Layout, table: pa.Table, day: str = DAY, posts: int = 64) -> IngestCounts:
    """Writes one raw day and ingests it."""
    write_log(layout, SIMULATOR, {day: table}, posts)
    return ingest(layout, day, CONFIG)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def at(table: pa.Table, row: int, **values: Any) -> pa.Table:
    """The table with some values of one row changed."""
    for name, value in values.items():
        table = set_value(table, name, row, value)
    return table


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
    raw = at(make_impressions(SIMULATOR, DAY, 6), 1, **early)
    raw = at(raw, 4, **early, timed=False)
    counts = run(layout, raw)
    assert counts.quarantined == {"arrival_time is before the day": 1}
    assert (counts.kept, counts.untimed, counts.late) == (5, 1, 0)


def test_unknown_values_are_kept(layout: Layout) -> None:
    raw = at(
        make_impressions(SIMULATOR, DAY, 6),
        2,
        **{"dwell_ms": None, "request_id": None, "position": -1, "surface": -1, "click": -1},
    )
    assert run(layout, raw).kept == 6


def test_duplicates_within_a_day_and_across_days(layout: Layout) -> None:
    raw = make_impressions(SIMULATOR, DAY, 10)
    later = at(raw.slice(3, 1), 0, arrival_time=START + DAY_MS - 1)
    other = at(raw.slice(4, 1), 0, like=1 - max(0, raw["like"][4].as_py()))
    first = run(layout, stack([raw, raw.slice(2, 2), later, other]))
    assert (first.duplicates, first.quarantined, first.kept) == (3, {DIFFERS: 1}, 10)
    again = at(raw.slice(0, 2), 0, arrival_time=START + DAY_MS + 5)
    again = at(again, 1, arrival_time=START + DAY_MS + 6, position=3 - raw["position"][1].as_py())
    second = run(layout, stack([make_impressions(SIMULATOR, NEXT, 5), again]), NEXT)
    assert (second.duplicates, second.quarantined, second.kept) == (1, {DIFFERS: 1}, 5)
    kept = rows_of(layout.impressions_day(DAY))
    assert sorted(r["post_id"] for r in kept) == list(range(10))
    assert {r["arrival_time"] for r in kept} == set(raw["arrival_time"].to_pylist())


def test_late_events_keep_when_they_arrived(layout: Layout) -> None:
    late = at(make_impressions(SIMULATOR, DAY, 4), 0, event_time=START - 3 * DAY_MS)
    counts = run(layout, late)
    assert (counts.late, counts.kept) == (1, 4)
    found = {r["post_id"]: r for r in rows_of(layout.impressions_day(DAY))}
    assert found[0]["arrival_time"] == late["arrival_time"][0].as_py()


def test_unknown_posts_and_members_are_kept_and_counted(layout: Layout) -> None:
    raw = at(make_impressions(SIMULATOR, DAY, 10), 0, member_id=99)
    counts = run(layout, raw, posts=6)
    assert (counts.unknown_posts, counts.unknown_members, counts.kept) == (4, 1, 10)


def visit(times: list[int], member: int = 1, first_post: int = 0) -> pa.Table:
    """Impressions without request ids at these times, arriving as they happen."""
    table = make_impressions(SIMULATOR, DAY, len(times))
    columns = {
        "member_id": pa.array([member] * len(times)),
        "post_id": pa.array(range(first_post, first_post + len(times))),
        "event_time": pa.array(times),
        "arrival_time": pa.array(times),
        "request_id": pa.array([None] * len(times), pa.int64()),
    }
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, values)
    return table.cast(SIMULATOR.event_schema)


def sessions(layout: Layout, day: str) -> dict[int, int]:
    return {r["post_id"]: r["session_id"] for r in rows_of(layout.impressions_day(day))}


def test_a_pause_starts_a_session_and_midnight_does_not(layout: Layout) -> None:
    midnight, gap = START + DAY_MS, SIMULATOR.session_gap_ms
    first = visit([midnight - 3 * gap, midnight - 2 * gap, midnight - 2 * gap + 1])
    first = stack([first, visit([midnight - MINUTE, midnight - 1], first_post=3)])
    run(layout, stack([first, visit([midnight - 2], member=2, first_post=5)]))
    one = sessions(layout, DAY)
    assert one[0] == one[1] == one[2] != one[3] == one[4] != one[5]
    run(layout, visit([midnight + 5, midnight + 2 * gap], first_post=6), NEXT)
    two = sessions(layout, NEXT)
    assert two[6] == one[3]
    assert two[7] not in one.values()
    assert min(*one.values(), *two.values()) >= 0


def test_a_late_event_joins_the_session_it_belongs_to(layout: Layout) -> None:
    noon = START + DAY_MS // 2
    run(layout, visit([noon, noon + 5 * MINUTE, noon + 50 * MINUTE]))
    one = sessions(layout, DAY)
    assert one[0] == one[1] != one[2]
    times = [noon + 6 * MINUTE, noon - MINUTE, noon + 26 * MINUTE]
    late = visit(times, first_post=3)
    arrived = pa.array([START + DAY_MS + 7] * 3)
    late = late.set_column(3, SIMULATOR.event_schema.field("arrival_time"), arrived)
    run(layout, late, NEXT)
    two = sessions(layout, NEXT)
    assert [two[p] for p in (3, 4, 5)] == [one[0]] * 3


def test_a_request_is_a_session(layout: Layout) -> None:
    raw = make_impressions(SIMULATOR, DAY, 12)
    raw = raw.set_column(0, SIMULATOR.event_schema.field(0), pa.array([3] * 12))
    run(layout, raw)
    named = {r["request_id"]: set() for r in rows_of(layout.impressions_day(DAY))}
    for row in rows_of(layout.impressions_day(DAY)):
        named[row["request_id"]].add(row["session_id"])
    assert all(len(ids) == 1 for ids in named.values())
    assert len(set.union(*named.values())) == len(named) == 3


def test_untimed_rows_are_sessions_of_their_own_in_their_order(layout: Layout) -> None:
    table = visit([START - 5000 + 1000 * i for i in range(5)])
    untimed = table.set_column(
        4, SIMULATOR.event_schema.field("timed"), pa.array([False] * 5)
    ).take([3, 1, 0, 4, 2])
    counts = run(layout, untimed)
    assert (counts.untimed, counts.sessions, counts.late) == (5, 5, 0)
    assert [r["post_id"] for r in rows_of(layout.impressions_day(DAY))] == [0, 1, 2, 3, 4]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60)), max_size=25),
    st.integers(1, 10),
)
def test_gap_sessions_against_a_loop(events: list[tuple[int, int]], gap: int) -> None:
    member = np.array([m for m, _ in events], np.int64)
    time = np.array([t for _, t in events], np.int64)
    got = gap_sessions(member, time, np.full(len(events), NO_SESSION), gap)
    expected = np.empty(len(events), np.int64)
    for who in set(member.tolist()):
        last, first = None, 0
        for place in sorted(np.flatnonzero(member == who), key=lambda i: time[i]):
            if last is None or time[place] - last > gap:
                first = time[place]
            last = time[place]
            expected[place] = mix(3, np.array([who]), np.array([first]))[0]
    np.testing.assert_array_equal(got, expected)


def test_posts_the_first_declaration_stands_members_the_last(layout: Layout) -> None:
    write_log(layout, SIMULATOR, {DAY: make_impressions(SIMULATOR, DAY, 4)})
    posts, members = make_posts(SIMULATOR, 8), make_members(SIMULATOR, 5)
    other = at(posts.slice(3, 1), 0, media=(posts["media"][3].as_py() + 2) % 6)
    bad = at(posts.slice(4, 1), 0, post_id=90, content=[float("nan")] * 50)
    hole = at(posts.slice(4, 1), 0, post_id=91, content=[None] * 50)
    absent = at(posts.slice(4, 1), 0, post_id=92, content=None)
    write_parquet(
        layout.raw_posts,
        stack([posts, posts.slice(0, 1), other, bad, hole, absent]),
    )
    moved = at(members.slice(1, 1), 0, connections=77.0)
    wrong = at(members.slice(2, 1), 0, connections=float("inf"))
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
    later = stack([posts.slice(0, 2), at(posts.slice(3), 0, media=other), posts.slice(0, 1)])
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
    posts = at(make_posts(SIMULATOR, 3), 1, length_s=float("nan"), created_ms=-1)
    write_parquet(layout.raw_posts, stack([posts, posts.slice(1, 1)]))
    counts = ingest(layout, DAY, CONFIG)
    assert (counts.posts.kept, counts.posts.duplicates) == (3, 1)


SCHEMAS = {
    "raw_day": SIMULATOR.event_schema,
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


def test_posts_of_an_unknown_or_impossible_creation(layout: Layout) -> None:
    posts = make_posts(SIMULATOR, 6)
    for row, time in enumerate([-1, -2, 0, 946_684_799_999, 4_102_444_800_000]):
        posts = set_value(posts, "created_ms", row, time)
    write_log(layout, SIMULATOR, {DAY: make_impressions(SIMULATOR, DAY, 4)})
    write_parquet(layout.raw_posts, posts)
    counts = ingest(layout, DAY, CONFIG).posts
    assert (counts.kept, counts.quarantined) == (2, {"created_ms is out of range": 4})
    assert pq.read_table(layout.posts)["post_id"].to_pylist() == [0, 5]


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
    counts = run(layout, SIMULATOR.event_schema.empty_table())
    assert (counts.read, counts.kept, counts.sessions) == (0, 0, 0)
    assert pq.read_schema(layout.impressions_day(DAY)) == KEPT_SCHEMA


def test_the_other_spec(layout: Layout) -> None:
    raw = make_impressions(KUAIRAND, DAY, 20)
    write_log(layout, KUAIRAND, {DAY: raw})
    assert ingest(layout, DAY, PROFILES["kuairand"]).kept == 20


ODD = st.one_of(
    st.sampled_from([None, -1, -2, 0, 1, 2, 127, 3, 99]),
    st.integers(-128, 127),
)
WIDE = st.one_of(
    ODD, st.integers(-(2**63), 2**63 - 1), st.integers(START - 9 * DAY_MS, START + 2 * DAY_MS)
)
LONG = ("member_id", "post_id", "event_time", "arrival_time", "request_id")
COLUMNS = tuple(SIMULATOR.event_schema.names)


@st.composite
def mutated(draw: st.DrawFn) -> pa.Table:
    """A valid day with values changed, rows repeated and the order shuffled."""
    table = make_impressions(SIMULATOR, DAY, 8, seed=draw(st.integers(0, 3)))
    picks = draw(st.lists(st.integers(0, 7), max_size=5))
    table = stack([table, table.take(pa.array(picks, pa.int64()))])
    for _ in range(draw(st.integers(0, 5))):
        column = draw(st.sampled_from(COLUMNS))
        row = draw(st.integers(0, table.num_rows - 1))
        value = draw(WIDE if column in LONG else ODD)
        if column == "timed":
            value = draw(st.sampled_from([True, False, None]))
        table = set_value(table, column, row, value)
    order = draw(st.permutations(range(table.num_rows)))
    return table.take(pa.array(order, pa.int64()))


def as_counter(table: pa.Table, *without: str) -> Counter[tuple[Any, ...]]:
    return Counter(tuple(r.values()) for r in table.drop_columns(list(without)).to_pylist())


@settings(max_examples=60, deadline=None)
@given(mutated())
def test_no_row_is_lost(raw: pa.Table) -> None:
    """Each row is kept, quarantined, or the copy (but for its arrival) of one that is kept."""
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout.at(folder)
        counts = run(layout, raw)
        kept = pq.read_table(layout.impressions_day(DAY)).drop_columns("session_id")
        refused = pq.read_table(layout.quarantine_day(DAY))
        assert counts.read == raw.num_rows
        assert counts.kept == kept.num_rows
        assert sum(counts.quarantined.values()) == refused.num_rows
        left = as_counter(raw) - as_counter(kept) - as_counter(refused, "reason")
        assert sum(left.values()) == counts.duplicates
        index = raw.column_names.index("arrival_time")
        known = as_counter(kept, "arrival_time")
        for row in left:
            assert known[row[:index] + row[index + 1 :]] == 1
        keys = kept.select(["member_id", "post_id", "event_time"])
        assert max(as_counter(keys).values(), default=1) == 1


@pytest.mark.law
@settings(max_examples=25, deadline=None)
@given(mutated(), st.data())
def test_law_6_a_day_run_again_leaves_the_same_bytes(raw: pa.Table, data: st.DataObject) -> None:
    """Run twice, or again after a crash that left any of the files unwritten."""
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout.at(folder)
        run(layout, raw)
        follow = make_impressions(SIMULATOR, NEXT, 6, seed=9)
        again = set_value(raw.slice(0, 1), "arrival_time", 0, START + DAY_MS + 1)
        run(layout, stack([follow, again]), NEXT)
        before = digest(layout.root)
        outputs = sorted(name for name in before if not name.startswith("raw"))
        assert len(outputs) == 2 * 3 + 4
        for name in data.draw(st.lists(st.sampled_from(outputs), unique=True)):
            if DAY not in name or "impressions" not in name:
                (layout.root / name).unlink()
        for day in data.draw(st.sampled_from([(NEXT,), (DAY, NEXT), (DAY, DAY, NEXT, NEXT)])):
            ingest(layout, day, CONFIG)
        if data.draw(st.booleans()):
            ingest(layout, DAY, CONFIG)
        after = digest(layout.root)
        missing = before.keys() - after.keys()
        assert all(after[name] == before[name] for name in after)
        assert all(DAY in name for name in missing)


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(12)))
def test_the_order_of_the_raw_rows_does_not_matter(order: list[int]) -> None:
    raw = make_impressions(SIMULATOR, DAY, 12)
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout.at(folder)
        run(layout, raw)
        first = digest(layout.root / "impressions")
        run(layout, raw.take(pa.array(order)))
        assert digest(layout.root / "impressions") == first
