# SPDX-License-Identifier: Apache-2.0
"""Sessions as ingest names them: by request, by pause over midnight, and each untimed row alone."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from components.config import PROFILES
from components.layout.paths import Layout
from components.log.counts import IngestCounts
from components.log.ingest import ingest
from feature_repo.spec import DAY_MS
from feature_repo.specs import SIMULATOR
from tests.raw_builders import make_impressions, rows_of, stack, write_log

DAY, NEXT = "2026-02-03", "2026-02-04"
START = int(SIMULATOR.day_start(SIMULATOR.day_number(DAY)))
MINUTE = 60_000


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.at(tmp_path)


def run(layout: Layout, table: pa.Table, day: str = DAY) -> IngestCounts:
    """Writes one raw day and ingests it."""
    write_log(layout, SIMULATOR, {day: table})
    return ingest(layout, day, PROFILES["demo"])


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
    return table.cast(SIMULATOR.impression_schema)


def sessions(layout: Layout, day: str) -> dict[int, int]:
    return {r["post_id"]: r["session_id"] for r in rows_of(layout.impressions_day(day))}


def test_a_pause_starts_a_session_and_midnight_does_not(layout: Layout) -> None:
    midnight, gap = START + DAY_MS, SIMULATOR.session_gap_ms
    first = visit([midnight - 3 * gap, midnight - 2 * gap, midnight - 2 * gap + 1])
    first = stack([first, visit([midnight - MINUTE, midnight - 1], first_post=3)])
    run(layout, stack([first, visit([midnight - 2], member=2, first_post=5)]))
    first_day = sessions(layout, DAY)
    a, b, c, d, e, other = (first_day[post] for post in range(6))
    assert a == b == c != d == e != other
    run(layout, visit([midnight + 5, midnight + 2 * gap], first_post=6), NEXT)
    next_day = sessions(layout, NEXT)
    assert next_day[6] == first_day[3]
    assert next_day[7] not in first_day.values()
    assert min(*first_day.values(), *next_day.values()) >= 0


def test_a_late_event_joins_the_session_it_belongs_to(layout: Layout) -> None:
    noon = START + DAY_MS // 2
    run(layout, visit([noon, noon + 5 * MINUTE, noon + 50 * MINUTE]))
    first_day = sessions(layout, DAY)
    assert first_day[0] == first_day[1] != first_day[2]
    times = [noon + 6 * MINUTE, noon - MINUTE, noon + 26 * MINUTE]
    late = visit(times, first_post=3)
    arrived = pa.array([START + DAY_MS + 7] * 3)
    late = late.set_column(3, SIMULATOR.impression_schema.field("arrival_time"), arrived)
    run(layout, late, NEXT)
    next_day = sessions(layout, NEXT)
    assert [next_day[p] for p in (3, 4, 5)] == [first_day[0]] * 3


def test_a_request_is_a_session(layout: Layout) -> None:
    raw = make_impressions(SIMULATOR, DAY, 12)
    raw = raw.set_column(0, SIMULATOR.impression_schema.field(0), pa.array([3] * 12))
    run(layout, raw)
    named = {r["request_id"]: set() for r in rows_of(layout.impressions_day(DAY))}
    for row in rows_of(layout.impressions_day(DAY)):
        named[row["request_id"]].add(row["session_id"])
    assert all(len(ids) == 1 for ids in named.values())
    assert len(set.union(*named.values())) == len(named) == 3


def test_untimed_rows_are_sessions_of_their_own_in_their_order(layout: Layout) -> None:
    table = visit([START - 5000 + 1000 * i for i in range(5)])
    untimed = table.set_column(
        4, SIMULATOR.impression_schema.field("timed"), pa.array([False] * 5)
    ).take([3, 1, 0, 4, 2])
    counts = run(layout, untimed)
    assert (counts.untimed, counts.sessions, counts.late) == (5, 5, 0)
    assert [r["post_id"] for r in rows_of(layout.impressions_day(DAY))] == [0, 1, 2, 3, 4]
