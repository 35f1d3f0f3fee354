# SPDX-License-Identifier: Apache-2.0
"""Where each row of a key ends when some are bad: in one place of four, and never in two.

It is kept, a duplicate, replaced or refused.
A case spells the rows of one key in the order in which they come: `b` is a bad one, `g` a good one,
`d` a good one that differs from `g`, `e` one that differs from both. Each case has a key of its own
and all of them are in one table, so that every key has bad and good neighbours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.config import PROFILES
from components.layout.files import write_parquet
from components.layout.paths import Layout
from components.log.counts import TableCounts
from components.log.declarations import DECLARED
from components.log.duplicates import DIFFERS
from components.log.ingest import ingest
from feature_repo.spec import DAY_MS
from feature_repo.specs import SIMULATOR
from tests.raw_builders import make_impressions, make_members, make_posts

CONFIG = PROFILES["demo"]
DAY, NEXT = "2026-02-03", "2026-02-04"
START = int(SIMULATOR.day_start(SIMULATOR.day_number(DAY)))
INF = float("inf")
FIRST_KEY = 40
FIRST_STANDS = [
    # rows, kept, duplicates, differing
    ("b", "", 0, 0),
    ("bb", "", 0, 0),
    ("bg", "g", 0, 0),
    ("gb", "g", 0, 0),
    ("bbg", "g", 0, 0),
    ("bgb", "g", 0, 0),
    ("bgg", "g", 1, 0),
    ("gbg", "g", 1, 0),
    ("ggb", "g", 1, 0),
    ("bgd", "g", 0, 1),
    ("gbd", "g", 0, 1),
    ("dbg", "d", 0, 1),
    ("bdgbdg", "d", 1, 2),
    ("gdedb", "g", 0, 3),
]
LAST_STANDS = [
    # rows, kept, duplicates, replaced
    ("b", "", 0, 0),
    ("bb", "", 0, 0),
    ("bg", "g", 0, 0),
    ("gb", "g", 0, 0),
    ("gbb", "g", 0, 0),
    ("bgb", "g", 0, 0),
    ("gbg", "g", 1, 0),
    ("dbg", "g", 0, 1),
    ("gdb", "d", 0, 1),
    ("bgdbgd", "d", 1, 2),
    ("gdedb", "d", 1, 2),
]
LATER_DAY = [
    # rows of the day before, rows, kept (of posts: or declared before), duplicates, differing
    ("g", "b", "", 0, 0),
    ("g", "bg", "g", 1, 0),
    ("g", "gb", "g", 1, 0),
    ("g", "bd", "", 0, 1),
    ("g", "dbg", "g", 1, 1),
    ("b", "bg", "g", 0, 0),
    ("b", "b", "", 0, 0),
    ("bg", "bdg", "g", 1, 1),
    ("b", "db", "d", 0, 0),
]
PLACES = ("first", "last", "between", "alone")

Values = dict[str, Any]
Groups = dict[int, list[Values]]
"""Rows by key."""
Row = Callable[[int, str, int], Values]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout.at(tmp_path)
    write_parquet(layout.raw_day(DAY), make_impressions(SIMULATOR, DAY, 9))
    write_parquet(layout.raw_posts, make_posts(SIMULATOR, 9))
    write_parquet(layout.raw_members, make_members(SIMULATOR, 7))
    return layout


def spelled(cases: list[str], row: Row) -> list[Values]:
    """The rows of every case, the first of each case before the second of any."""
    keys = [[(FIRST_KEY + i, letter, n) for n, letter in enumerate(c)] for i, c in enumerate(cases)]
    return [row(*spelt) for turn in zip_longest(*keys) for spelt in turn if spelt is not None]


def table_of(rows: list[Values], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema)


def among(others: pa.Table, mine: list[Values], place: str) -> pa.Table:
    """My rows before the others, after them, one by one between them, or without them."""
    theirs = others.to_pylist()
    pairs = zip_longest(mine, theirs)
    rows = {
        "first": [*mine, *theirs],
        "last": [*theirs, *mine],
        "alone": mine,
        "between": [row for pair in pairs for row in pair if row is not None],
    }[place]
    return table_of(rows, others.schema)


def by_key(path: Path, key: str) -> Groups:
    groups: Groups = {}
    for row in pq.read_table(path).to_pylist():
        groups.setdefault(row[key], []).append(row)
    return groups


def assert_others(groups: Groups, others: pa.Table, place: str) -> None:
    want = [] if place == "alone" else others.to_pylist()
    assert [row for key in sorted(groups) if key < FIRST_KEY for row in groups[key]] == want


def assert_refused(path: Path, key: str, cases: list[str], bad: str, more: dict[int, list[str]]):
    """Every bad row is in quarantine, with the rows that differ, and nothing else is."""
    groups = by_key(path, key)
    for i, case in enumerate(cases):
        want = [bad] * case.count("b") + more.get(i, [])
        got = [row["reason"] for row in groups.pop(FIRST_KEY + i, [])]
        assert Counter(got) == Counter(want), case
    assert groups == {}


def assert_counts(counts: TableCounts, **want: Any) -> None:
    refused = sum(counts.quarantined.values())
    assert counts.read == counts.kept + counts.duplicates + counts.replaced + refused
    for name, value in want.items():
        assert getattr(counts, name) == value, name


POST, MEMBER = make_posts(SIMULATOR, 1).to_pylist()[0], make_members(SIMULATOR, 1).to_pylist()[0]
IMPRESSION = make_impressions(SIMULATOR, DAY, 1).to_pylist()[0]


def post_row(key: int, letter: str, _: int) -> Values:
    length = {"g": 3.5, "d": 4.5, "e": 5.5, "b": INF}[letter]
    return {**POST, "post_id": key, "length_s": length}


LENGTHS = {3.5: "g", 4.5: "d", 5.5: "e"}


@pytest.mark.parametrize("place", PLACES)
def test_the_first_good_row_of_a_post_stands(layout: Layout, place: str) -> None:
    cases, others = [c[0] for c in FIRST_STANDS], make_posts(SIMULATOR, 9)
    raw = among(others, spelled(cases, post_row), place)
    write_parquet(layout.raw_posts, raw)
    counts = ingest(layout, DAY, CONFIG).posts
    groups = by_key(layout.posts, "post_id")
    assert_others(groups, others, place)
    for i, (rows, kept, _, _) in enumerate(FIRST_STANDS):
        got = [LENGTHS[row["length_s"]] for row in groups.get(FIRST_KEY + i, [])]
        assert got == list(kept), rows
    quarantine = layout.root / "quarantine" / "posts.parquet"
    more = {i: [DECLARED] * c[3] for i, c in enumerate(FIRST_STANDS)}
    assert_refused(quarantine, "post_id", cases, "length_s is infinite", more)
    bad = {"length_s is infinite": 18, DECLARED: 8}
    kept = 12 + (0 if place == "alone" else 9)
    assert_counts(counts, read=raw.num_rows, kept=kept, duplicates=4, quarantined=bad, replaced=0)


def test_a_post_that_an_earlier_day_refused_was_not_declared(layout: Layout) -> None:
    cases, others = [c[1] for c in LATER_DAY], make_posts(SIMULATOR, 5)
    mine = spelled([c[0] for c in LATER_DAY], post_row)
    write_parquet(layout.raw_posts, among(others, mine, "first"))
    ingest(layout, DAY, CONFIG)
    write_parquet(layout.raw_day(NEXT), make_impressions(SIMULATOR, NEXT, 4))
    write_parquet(layout.raw_posts, table_of(spelled(cases, post_row), others.schema))
    counts = ingest(layout, NEXT, CONFIG).posts
    groups = by_key(layout.posts, "post_id")
    assert_others(groups, others, "first")
    for i, (before, rows, kept, _, _) in enumerate(LATER_DAY):
        stands = "g" if "g" in before else kept
        got = [LENGTHS[row["length_s"]] for row in groups.get(FIRST_KEY + i, [])]
        assert got == list(stands), (before, rows)
    # A post that an earlier day declared is kept like a new one: only its second row repeats it.
    bad = {"length_s is infinite": 9, DECLARED: 3}
    assert_counts(counts, read=18, kept=6, duplicates=0, quarantined=bad, replaced=0)


def member_row(key: int, letter: str, _: int) -> Values:
    connections = {"g": 3.5, "d": 4.5, "e": 5.5, "b": INF}[letter]
    return {**MEMBER, "member_id": key, "connections": connections}


@pytest.mark.parametrize("place", PLACES)
def test_the_last_good_row_of_a_member_stands(layout: Layout, place: str) -> None:
    cases, others = [c[0] for c in LAST_STANDS], make_members(SIMULATOR, 7)
    raw = among(others, spelled(cases, member_row), place)
    write_parquet(layout.raw_members, raw)
    counts = ingest(layout, DAY, CONFIG).members
    groups = by_key(layout.members, "member_id")
    assert_others(groups, others, place)
    for i, (rows, kept, _, _) in enumerate(LAST_STANDS):
        got = [LENGTHS[row["connections"]] for row in groups.get(FIRST_KEY + i, [])]
        assert got == list(kept), rows
    quarantine = layout.root / "quarantine" / "members.parquet"
    assert_refused(quarantine, "member_id", cases, "connections is infinite", {})
    bad, kept = {"connections is infinite": 15}, 9 + (0 if place == "alone" else 7)
    assert_counts(counts, read=raw.num_rows, kept=kept, duplicates=3, replaced=6, quarantined=bad)


def impression_row(since: int) -> Row:
    """Rows of a key arrive in the order in which they are spelled."""
    position = {"g": 3, "d": 4, "e": 5, "b": -7}

    def row(key: int, letter: str, number: int) -> Values:
        times = {"event_time": START, "arrival_time": since + number}
        return {**IMPRESSION, **times, "post_id": key, "position": position[letter]}

    return row


POSITIONS = {3: "g", 4: "d", 5: "e"}


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_the_first_good_impression_to_arrive_stands(
    layout: Layout, place: str, backwards: bool
) -> None:
    cases, others = [c[0] for c in FIRST_STANDS], make_impressions(SIMULATOR, DAY, 9)
    since = START + DAY_MS - 60
    mine = spelled(cases, impression_row(since))
    raw = among(others, mine[::-1] if backwards else mine, place)
    write_parquet(layout.raw_day(DAY), raw)
    counts = ingest(layout, DAY, CONFIG)
    groups = by_key(layout.impressions_day(DAY), "post_id")
    for i, (rows, kept, _, _) in enumerate(FIRST_STANDS):
        got = groups.pop(FIRST_KEY + i, [])
        assert [POSITIONS[row["position"]] for row in got] == list(kept), rows
        assert [row["arrival_time"] for row in got] == [since + rows.index(k) for k in kept], rows
    assert list(groups) == ([] if place == "alone" else list(range(9)))
    more = {i: [DIFFERS] * c[3] for i, c in enumerate(FIRST_STANDS)}
    path = layout.quarantine_day(DAY)
    assert_refused(path, "post_id", cases, "position is below -1", more)
    assert (counts.read, counts.duplicates) == (raw.num_rows, 4)
    assert counts.kept == 12 + (0 if place == "alone" else 9)
    assert counts.quarantined == {"position is below -1": 18, DIFFERS: 8}


def test_an_impression_that_an_earlier_day_refused_was_not_there(layout: Layout) -> None:
    cases, noon = [c[1] for c in LATER_DAY], START + DAY_MS // 2
    mine = spelled([c[0] for c in LATER_DAY], impression_row(noon))
    write_parquet(layout.raw_day(DAY), table_of(mine, SIMULATOR.impression_schema))
    ingest(layout, DAY, CONFIG)
    again = spelled(cases, impression_row(noon + DAY_MS))
    write_parquet(layout.raw_day(NEXT), table_of(again, SIMULATOR.impression_schema))
    counts = ingest(layout, NEXT, CONFIG)
    groups = by_key(layout.impressions_day(NEXT), "post_id")
    for i, (before, rows, kept, _, _) in enumerate(LATER_DAY):
        new = "" if "g" in before else kept
        got = [POSITIONS[row["position"]] for row in groups.pop(FIRST_KEY + i, [])]
        assert got == list(new), (before, rows)
    assert groups == {}
    more = {i: [DIFFERS] * c[4] for i, c in enumerate(LATER_DAY)}
    path = layout.quarantine_day(NEXT)
    assert_refused(path, "post_id", cases, "position is below -1", more)
    assert (counts.read, counts.kept, counts.duplicates) == (18, 2, 4)
    assert counts.quarantined == {"position is below -1": 9, DIFFERS: 3}
