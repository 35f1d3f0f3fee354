# SPDX-License-Identifier: Apache-2.0
"""Feast sources: the Parquet files a run writes for each view. Declarations only."""

from __future__ import annotations

from pathlib import Path

from feast import FileSource, PushSource
from feast.data_format import ParquetFormat

from feature_repo.quoting import duckdb_pattern

HISTORY_PUSH = "history_push"
"""The push source that fresh histories reach the online store through."""


def file_source(name: str, root: Path, files: str = "day=*") -> FileSource:
    """The offline rows of a view, a file a day.

    duckdb reads the path as a pattern, in which the root stands for itself. It is absolute because
    Feast resolves a relative one against the folder it happens to run in.
    """
    folder = duckdb_pattern(root.absolute() / "features" / name)
    return FileSource(
        name=f"{name}_rows",
        path=f"{folder}/{files}.parquet",
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )


def push_source(root: Path) -> PushSource:
    """Histories pushed between two days, over the newest value of each member."""
    return PushSource(name=HISTORY_PUSH, batch_source=file_source("history", root, "bucket=*"))
