# SPDX-License-Identifier: Apache-2.0
"""The offline rows that an interval brings online, some at a time and in bounded memory.

A day's file of a view is what became known by the end of that day, whenever it became true: a post
may be declared late. So an interval takes the files of the days that end in it, and every row of
theirs. A history's file has one value a member, and takes the rows that became true in it.
Intervals are open at their start, so that one goes on where another ended.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureView

from feature_repo.quoting import duckdb_parquet

SLICE_BYTES = 16 * 2**20
"""Values that are written at once."""
SLICE_ROWS = 10_000
PASS_ROWS = 2_000_000
"""Rows of several days from which the newest of each key are chosen at once."""
MEMORY_LIMIT = "512MB"
"""What duckdb may hold while it chooses; the rest it puts aside in a folder of its own."""
ASIDE_LIMIT = "16GB"
THREADS = 2
"""Each holds some of the memory; choosing is a small part of the work."""

_BYTES = (f"((({{0}} >> {8 * n}) & 255)::ubigint << {56 - 8 * n})" for n in range(8))
_LOW_FIRST = f"({' | '.join(_BYTES)})"
"""A number's bytes in their other order, as SQL."""


@dataclass(frozen=True)
class Interval:
    """After a time and up to another, both with their zone."""

    start: datetime
    end: datetime

    def has(self, when: datetime) -> bool:
        """Whether a time is in it."""
        return self.start < when <= self.end


def is_history(view: FeatureView) -> bool:
    """Whether a view's values are members' windows: large, and in one row a member."""
    return bool(view.tags.get("kind") == "history")


def source_files(pattern: str) -> list[Path]:
    """The files of a source by its pattern, as duckdb reads it, in the order of their names."""
    with closing(duckdb.connect()) as connection:
        rows = connection.execute("select file from glob(?) order by file", [pattern]).fetchall()
    return [Path(name) for (name,) in rows]


def files_in(view: FeatureView, files: Sequence[Path], interval: Interval) -> list[Path]:
    """Those of a view's files that have rows of an interval, or may have.

    Raises:
        ValueError: the view was applied before it said when its days end.
    """
    if is_history(view):
        return list(files)
    offset = view.tags.get("utc_offset_hours")
    if offset is None:
        raise ValueError(
            f"view {view.name} does not say when its days end; run feast apply, then this again"
        )
    zone = timezone(timedelta(hours=int(offset)))
    return [file for file in files if interval.has(_day_end(file, zone))]


def slices(
    view: FeatureView, files: Sequence[Path], interval: Interval
) -> Iterator[pa.RecordBatch]:
    """The rows that an interval brings of some files of `files_in`: the newest of each key.

    They come in the same slices each time.
    """
    if is_history(view):
        for file in files:
            yield from _file_slices(file, interval)
    elif files:
        keys = sorted(column.name for column in view.entity_columns)
        rows = sum(pq.read_metadata(file).num_rows for file in files)
        for number in range(passes := rows // PASS_ROWS + 1):
            yield from _newest(files, keys, f"hash({', '.join(keys)}) % {passes} = {number}")


def _day_end(file: Path, zone: timezone) -> datetime:
    """When the day of `day=YYYY-MM-DD.parquet` is over."""
    day = datetime.fromisoformat(file.stem.removeprefix("day="))
    return day.replace(tzinfo=zone) + timedelta(days=1)


def _file_slices(file: Path, interval: Interval) -> Iterator[pa.RecordBatch]:
    """A file's rows that became true in an interval, a row group at a time."""
    with pq.ParquetFile(file) as parquet:
        for group in range(parquet.num_row_groups):
            times = parquet.read_row_group(group, columns=["event_timestamp"])["event_timestamp"]
            inside = pc.and_(
                pc.greater(times, pa.scalar(interval.start, times.type)),
                pc.less_equal(times, pa.scalar(interval.end, times.type)),
            )
            if pc.any(inside).as_py():
                yield from _cut(parquet.read_row_group(group).filter(inside))


def _newest(files: Sequence[Path], keys: Sequence[str], share: str) -> Iterator[pa.RecordBatch]:
    """The newest row of each key of a share of them; a key has one row a file.

    They come in the order in which a store that sorts its keys, as SQLite, has them: what lies
    together is written together. Feast's keys have their lowest byte first.
    """
    names, rows = ", ".join(keys), duckdb_parquet(files)
    order = ", ".join(_LOW_FIRST.format(key) for key in keys)
    with _bounded_duckdb() as connection:
        # The keys alone are chosen from, so that the values are held once, where they are sorted.
        answer = connection.execute(
            f"with newest as (select {names}, max(event_timestamp) as event_timestamp "
            f"from {rows} where {share} group by all) "
            f"select rows.* from {rows} as rows "
            f"join newest using ({names}, event_timestamp) order by {order}"
        )
        for batch in answer.to_arrow_reader(SLICE_ROWS):
            yield from _cut(pa.Table.from_batches([batch]))


@contextmanager
def _bounded_duckdb() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection for the length of a block, bounded in memory and on disk, with times in UTC."""
    with tempfile.TemporaryDirectory(prefix="feedsr-online-") as folder:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": folder,
            "max_temp_directory_size": ASIDE_LIMIT,
            "threads": THREADS,
        }
        with closing(duckdb.connect(config=config)) as connection:
            connection.execute("set timezone = 'UTC'")
            yield connection


def _cut(rows: pa.Table) -> Iterator[pa.RecordBatch]:
    """Rows as slices of a bounded size."""
    each = max(rows.nbytes // max(rows.num_rows, 1), 1)
    most = max(min(SLICE_ROWS, SLICE_BYTES // each), 1)
    yield from (batch for batch in rows.combine_chunks().to_batches(most) if batch.num_rows)


def aware(when: datetime) -> datetime:
    """A time with its zone; one without is UTC, as Feast reads it."""
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
