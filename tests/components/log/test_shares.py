# SPDX-License-Identifier: Apache-2.0
"""A day that is read in parts, by row groups and earlier days, is the day that is read in one."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.layout.paths import Layout
from components.log import buckets as dealing
from components.log.engines import Engine, LocalEngine
from components.log.ingest import ingest
from components.log.shares import sorted_shares
from feature_repo.specs import SIMULATOR
from tests.engine_builders import InParts
from tests.log_builders import small_config
from tests.raw_builders import DAYS, hard_days, make_impressions, set_value, write_log

CONFIG = small_config(SIMULATOR, buckets=3)


def write_raw(layout: Layout, days: dict[str, pa.Table]) -> None:
    """Raw days in row groups of 16 rows, and the first days ingested."""
    write_log(layout, SIMULATOR, days)
    for day, table in days.items():
        pq.write_table(table, layout.raw_day(day), row_group_size=16)
    for day in [*days][:-1]:
        ingest(layout, day, CONFIG)


def sorted_out(layout: Layout, day: str, engine: Engine) -> list[dict[str, Any]]:
    with sorted_shares(layout, SIMULATOR, day, CONFIG.buckets, engine) as shares:
        return [asdict(share) for share in shares]


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), many=st.booleans())
def test_a_day_in_parts_is_the_day_in_one(seed: int, many: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(dealing, "ROWS_IN_MEMORY", 20 if many else 1_000)
        layout = Layout.at(folder)
        write_raw(layout, hard_days(SIMULATOR, np.random.default_rng(seed)))
        whole = sorted_out(layout, DAYS[-1], LocalEngine())
        parts = sorted_out(layout, DAYS[-1], InParts())
    assert len(whole) == (3 if many else 1)
    assert sum(share["kept"].num_rows for share in whole) > 0
    for own, other in zip(parts, whole, strict=True):
        assert own["read"] == other["read"]
        for name in ("kept", "refused"):
            assert own[name].schema == other[name].schema
            assert own[name].combine_chunks() == other[name].combine_chunks()


def test_without_earlier_days_in_reach_none_is_read(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    rows = {day: make_impressions(SIMULATOR, day, 30, seed=1) for day in DAYS}
    write_raw(layout, rows)
    layout.impressions_day(DAYS[0]).write_bytes(b"not read")
    assert sum(s["read"] for s in sorted_out(layout, DAYS[-1], InParts())) == 30


@pytest.mark.parametrize("engine", [LocalEngine(), InParts()])
def test_times_in_another_unit_are_refused_before_a_row_is(tmp_path: Path, engine: Engine) -> None:
    layout, day = Layout.at(tmp_path), DAYS[0]
    rows = make_impressions(SIMULATOR, day, 30)
    for row in range(30):
        rows = set_value(rows, "event_time", row, rows["event_time"][row].as_py() // 1000)
    write_raw(layout, {day: rows})
    with pytest.raises(ValueError, match=r"impressions.parquet: event_time .*seconds"):
        sorted_out(layout, day, engine)
