# SPDX-License-Identifier: Apache-2.0
"""Feast sources: the Parquet files a run writes for each view. Declarations only."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

from feast import FileSource, PushSource
from feast.data_format import ParquetFormat
from feast.data_source import DataSource

from feature_repo.quoting import duckdb_pattern, hadoop_pattern

Offline = Literal["duckdb", "spark"]
"""Which of Feast's offline stores reads the files."""
HISTORY_PUSH = "history_push"
"""The push source that fresh histories reach the online store through."""
PATTERN = "pattern"


def rows_source(
    name: str, root: Path, files: str = "day=*", offline: Offline = "duckdb"
) -> DataSource:
    """The offline rows of a view, as an offline store reads them."""
    return (spark_source if offline == "spark" else file_source)(name, root, files)


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


def spark_source(name: str, root: Path, files: str = "day=*") -> DataSource:
    """The same rows for Feast's Spark offline store, which reads a pattern of Hadoop's.

    What a batch engine reads without Spark is the tag `pattern`.
    """
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

    rows = file_source(name, root, files)
    folder = hadoop_pattern(root.absolute() / "features" / name)
    with warnings.catch_warnings():
        # Feast calls the class experimental, each time that it is made.
        warnings.simplefilter("ignore", RuntimeWarning)
        return SparkSource(
            name=rows.name,
            path=f"file://{folder}/{files}.parquet",
            file_format="parquet",
            timestamp_field=rows.timestamp_field,
            created_timestamp_column=rows.created_timestamp_column,
            tags={PATTERN: rows.path},
        )


def source_pattern(source: DataSource | None) -> str:
    """The files of a source as a pattern of duckdb's."""
    assert source is not None, "the views of a run read files"
    return source.path if isinstance(source, FileSource) else source.tags[PATTERN]


def push_source(root: Path, offline: Offline = "duckdb") -> PushSource:
    """Histories pushed between two days, over the newest value of each member."""
    rows = rows_source("history", root, "bucket=*", offline)
    return PushSource(name=HISTORY_PUSH, batch_source=rows)
