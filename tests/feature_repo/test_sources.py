# SPDX-License-Identifier: Apache-2.0
"""A source is the files of one view below one root, and histories are pushed over theirs."""

from __future__ import annotations

import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.sources import (
    HISTORY_PUSH,
    file_source,
    push_source,
    rows_source,
    source_pattern,
    spark_source,
)


def test_a_source_is_every_day_of_its_view(tmp_path: Path) -> None:
    for name in ("affinity", "affinity_old"):
        (tmp_path / "features" / name).mkdir(parents=True)
        for day in (1, 2):
            stamp = datetime.datetime(2026, 1, day, tzinfo=datetime.UTC)
            rows = pa.table({"name": [f"{name}-{day}"], "event_timestamp": [stamp]})
            pq.write_table(rows, tmp_path / "features" / name / f"day=2026-01-0{day}.parquet")
    source = file_source("affinity", tmp_path)
    rows = duckdb.sql(f"select name from read_parquet('{source.path}')").fetchall()
    assert sorted(rows) == [("affinity-1",), ("affinity-2",)]
    assert source.timestamp_field == "event_timestamp"
    assert source.created_timestamp_column == "created_timestamp"


def test_a_relative_root_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Feast would resolve it against the folder that it runs in."""
    monkeypatch.chdir(tmp_path)
    assert file_source("x", Path("run")).path == f"{tmp_path}/run/features/x/day=*.parquet"


def test_sources_of_two_views_have_two_names() -> None:
    assert file_source("a", Path("/r")).name != file_source("b", Path("/r")).name


def test_histories_are_pushed_over_the_rows_of_histories() -> None:
    pushed = push_source(Path("/r"))
    assert pushed.name == HISTORY_PUSH
    assert pushed.batch_source == file_source("history", Path("/r"), "bucket=*")


def test_spark_and_duckdb_read_the_same_files_each_by_its_own_pattern() -> None:
    duckdb = rows_source("x", Path("/a{b}/[c]"))
    spark = rows_source("x", Path("/a{b}/[c]"), offline="spark")
    assert duckdb.path == "/a{b}/[[]c]/features/x/day=*.parquet"
    assert spark.path == "file:///a\\{b\\}/\\[c\\]/features/x/day=*.parquet"
    assert source_pattern(spark) == source_pattern(duckdb) == duckdb.path
    assert spark.name == duckdb.name
    assert spark.created_timestamp_column == duckdb.created_timestamp_column
    kept = type(spark).from_proto(spark.to_proto())
    assert source_pattern(kept) == duckdb.path


def test_histories_are_pushed_over_what_spark_reads() -> None:
    pushed = push_source(Path("/r"), "spark")
    assert pushed.batch_source == spark_source("history", Path("/r"), "bucket=*")
