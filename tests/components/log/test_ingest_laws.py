# SPDX-License-Identifier: Apache-2.0
"""Laws of ingest over days of any rows: none is lost, and a day run again leaves the same bytes."""

from __future__ import annotations

import tempfile
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.config import PROFILES
from components.layout.paths import Layout
from components.log.counts import IngestCounts
from components.log.ingest import ingest
from feature_repo.spec import DAY_MS
from feature_repo.specs import SIMULATOR
from tests.raw_builders import digest, make_impressions, set_value, stack, write_log

CONFIG = PROFILES["demo"]
DAY, NEXT = "2026-02-03", "2026-02-04"
START = int(SIMULATOR.day_start(SIMULATOR.day_number(DAY)))


def run(layout: Layout, table: pa.Table, day: str = DAY) -> IngestCounts:
    """Writes one raw day and ingests it."""
    write_log(layout, SIMULATOR, {day: table})
    return ingest(layout, day, CONFIG)


ODD = st.one_of(
    st.sampled_from([None, -1, -2, 0, 1, 2, 127, 3, 99]),
    st.integers(-128, 127),
)
WIDE = st.one_of(
    ODD, st.integers(-(2**63), 2**63 - 1), st.integers(START - 9 * DAY_MS, START + 2 * DAY_MS)
)
LONG = ("member_id", "post_id", "event_time", "arrival_time", "request_id")
COLUMNS = tuple(SIMULATOR.impression_schema.names)


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
