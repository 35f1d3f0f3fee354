# SPDX-License-Identifier: Apache-2.0
"""What arrived on a day by buckets of members, and the earlier impressions that come with it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from components.config import PROFILES
from components.layout.paths import Layout
from components.log import buckets
from components.log.arrivals import Reach, arrivals
from components.log.columns import column
from components.log.ingest import ingest
from feature_repo.spec import DAY_MS
from feature_repo.specs import SIMULATOR
from tests.raw_builders import make_impressions, set_value, set_values, write_log

DAY, NEXT = "2026-02-03", "2026-02-04"
START = int(SIMULATOR.day_start(SIMULATOR.day_number(NEXT)))
GAP = SIMULATOR.session_gap_ms


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.at(tmp_path)


def earlier_rows(layout: Layout, today: pa.Table) -> list[int]:
    """The posts of the earlier day's impressions that come with today's rows."""
    before = make_impressions(SIMULATOR, DAY, 6)
    for row in range(6):
        time = START - (row + 1) * GAP
        ids = {"member_id": 1 + row % 2, "request_id": None}
        before = set_values(before, row, event_time=time, arrival_time=time, timed=True, **ids)
    write_log(layout, SIMULATOR, {DAY: before, NEXT: today})
    assert ingest(layout, DAY, PROFILES["demo"]).kept == 6
    with arrivals(layout, SIMULATOR, NEXT, 1) as shares:
        (share,) = shares
    return sorted(share.earlier["post_id"].to_pylist())


def today(event_time: int, **values: object) -> pa.Table:
    rows = make_impressions(SIMULATOR, NEXT, 1)
    times = {"event_time": event_time, "arrival_time": START + DAY_MS - 1, "timed": True}
    return set_values(rows, 0, **times, **values)


def test_a_row_of_a_request_that_is_not_late_reaches_nothing(layout: Layout) -> None:
    assert earlier_rows(layout, today(START, member_id=1, request_id=7)) == []


def test_a_late_row_reaches_the_impression_it_repeats(layout: Layout) -> None:
    """That member's, that post's, at that time: no other one."""
    time = START - 3 * GAP
    late = today(time, member_id=1, post_id=2, request_id=7)
    assert earlier_rows(layout, late) == [2]
    assert earlier_rows(layout, set_value(late, "post_id", 0, 4)) == []
    assert earlier_rows(layout, set_value(late, "event_time", 0, time + 1)) == []


def test_a_row_without_a_request_reaches_its_members_pause(layout: Layout) -> None:
    assert earlier_rows(layout, today(START, member_id=1, request_id=None)) == [0]
    assert earlier_rows(layout, today(START + 1, member_id=1, request_id=None)) == []
    assert earlier_rows(layout, today(START - 2 * GAP, member_id=1, request_id=None)) == [0, 2]
    assert earlier_rows(layout, today(START - 2 * GAP, member_id=9, request_id=None)) == []


def test_a_row_that_is_refused_reaches_nothing(layout: Layout) -> None:
    bad = today(START - 3 * GAP, member_id=1, post_id=2, request_id=7, position=-2)
    assert earlier_rows(layout, bad) == []
    assert Reach(SIMULATOR, SIMULATOR.day_number(NEXT)).since is None


def test_few_rows_are_one_share_and_many_are_a_share_a_bucket(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = set_value(make_impressions(SIMULATOR, DAY, 20), "position", 4, -2)
    write_log(layout, SIMULATOR, {DAY: raw})
    with arrivals(layout, SIMULATOR, DAY, 4) as shares:
        (whole,) = shares
    assert whole.rows.drop_columns("reason").to_pylist() == raw.to_pylist()
    reasons = column(whole.rows, "reason").tolist()
    assert reasons == ["", "", "", "", "position is below -1", *[""] * 15]
    monkeypatch.setattr(buckets, "ROWS_IN_MEMORY", 19)
    with arrivals(layout, SIMULATOR, DAY, 4) as shares:
        rows = [share.rows for share in shares]
    assert len(rows) == 4
    members = [set(part["member_id"].to_pylist()) for part in rows]
    assert sum(map(len, members)) == len(set.union(*members))
    everyone = sorted(pa.concat_tables(rows).to_pylist(), key=lambda r: r["post_id"])
    assert everyone == sorted(whole.rows.to_pylist(), key=lambda r: r["post_id"])
