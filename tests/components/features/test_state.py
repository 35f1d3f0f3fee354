# SPDX-License-Identifier: Apache-2.0
"""A state says what it was made from, and is carried on from the same log alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.features.state import Origin
from components.layout.files import write_parquet
from components.layout.paths import Layout

DAYS = ("2026-01-01", "2026-01-02", "2026-01-04")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A root with impressions of three days."""
    layout = Layout.at(tmp_path / "root")
    for number, day in enumerate(DAYS):
        write_parquet(layout.impressions_day(day), pa.table({"rows": [number] * 9}))
    return layout


def test_a_state_leads_to_later_days_of_the_same_log(layout: Layout) -> None:
    origins = [Origin.of_log(layout, day, "k") for day in DAYS]
    assert [origin.day for origin in origins] == list(DAYS)
    for place, origin in enumerate(origins):
        assert [origin.leads_to(later) for later in origins] == [i >= place for i in range(3)]
    assert not origins[0].leads_to(Origin.of_log(layout, DAYS[1], "other"))
    assert Origin("k", {}).leads_to(origins[0])
    write_parquet(layout.impressions_day(DAYS[0]), pa.table({"rows": [7] * 9}))
    assert not origins[1].leads_to(Origin.of_log(layout, DAYS[2], "k"))


def test_the_same_impressions_are_the_same_log_wherever_and_whenever_they_lie(
    layout: Layout, tmp_path: Path
) -> None:
    before = Origin.of_log(layout, DAYS[2], "k")
    os.utime(layout.impressions_day(DAYS[0]), ns=(1, 1))
    assert Origin.of_log(layout, DAYS[2], "k") == before
    shutil.copytree(layout.root, tmp_path / "copy", copy_function=shutil.copy)
    assert Origin.of_log(Layout.at(tmp_path / "copy"), DAYS[2], "k") == before


def test_what_a_file_says_is_read_back_and_a_strange_file_says_nothing(
    layout: Layout, tmp_path: Path
) -> None:
    origin, path = Origin.of_log(layout, DAYS[1], "k"), tmp_path / "state.parquet"
    assert Origin.of_file(path) is None
    table = pa.table({"key": [1]})
    pq.write_table(table.replace_schema_metadata(origin.metadata()), path)
    assert Origin.of_file(path) == origin
    pq.write_table(table, path)
    assert Origin.of_file(path) is None
    pq.write_table(table.replace_schema_metadata({b"feedsr.state": b"[1]"}), path)
    assert Origin.of_file(path) is None
    path.write_bytes(b"damaged")
    assert Origin.of_file(path) is None


def test_digests_that_cannot_be_read_are_made_again(layout: Layout) -> None:
    before = Origin.of_log(layout, DAYS[2], "k")
    for text in ("{", "[1]", '{"2026-01-01": 3}'):
        (layout.root / "ledger" / "impressions.json").write_text(text)
        assert Origin.of_log(layout, DAYS[2], "k") == before
