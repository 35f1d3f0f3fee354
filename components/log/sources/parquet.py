# SPDX-License-Identifier: Apache-2.0
"""Your own log: Parquet files that already have a spec's columns, split by the day they arrived.

Wants `impressions*.parquet` (`spec.impression_schema`), `posts.parquet` (`spec.post_schema`) and
`members.parquet` (`spec.member_schema`) in one folder; columns beside those are left behind and
counted. One batch of rows is in memory at a time. The values are ingest's to check.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.console import progress
from components.layout.files import atomic_path
from components.layout.paths import Layout
from components.log.columns import Ints, column
from components.log.schema import check_schema
from components.log.sources.base import SourceCounts, fresh_raw
from components.log.times import Units
from feature_repo.kinds import UNKNOWN
from feature_repo.spec import Spec
from feature_repo.values import insane

BATCH_ROWS = 1 << 17
MAX_DAYS = 3660
"""More arrival days than this in one log are a mistake in its times, not a log."""
TIMES = ("event_time", "arrival_time")
OPEN_DAYS = 256
"""Files open at once: a system allows about a thousand."""


def is_parquet(data_dir: Path) -> bool:
    """Whether a folder has the three kinds of file."""
    tables = all((data_dir / f"{name}.parquet").is_file() for name in ("posts", "members"))
    return tables and any(data_dir.glob("impressions*.parquet"))


def import_parquet(data_dir: Path | str, layout: Layout, spec: Spec) -> SourceCounts:
    """Writes your own Parquet into `raw/`.

    Rows without an arrival time a day can be made of go to the log's first day, where ingest
    puts them into quarantine.

    Raises:
        ValueError: a file is missing, a column is missing or of another type, there is no row, or
            most times are in another unit than milliseconds.
    """
    folder = Path(data_dir)
    files = sorted(folder.glob("impressions*.parquet"))
    if not files:
        raise ValueError(
            f"{folder} has no impressions*.parquet; want them, posts and members there"
        )
    extra = [name for file in files for name in check_schema(file, spec.impression_schema)]
    posts, members = folder / "posts.parquet", folder / "members.parquet"
    extra += check_schema(posts, spec.post_schema) + check_schema(members, spec.member_schema)
    _check_created(posts)
    days = _days(files, spec)
    with fresh_raw(layout) as fresh:
        return SourceCounts(
            impressions=_split(files, fresh, spec, days),
            posts=_copy(posts, fresh.raw_posts, spec.post_schema),
            members=_copy(members, fresh.raw_members, spec.member_schema),
            days=tuple(fresh.raw_days()),
            notes={"ignored_columns": len(extra)},
        )


def _days(files: list[Path], spec: Spec) -> list[int]:
    """The arrival days of the log, in order."""
    days: set[int] = set()
    units = {name: Units() for name in TIMES}
    for file in files:
        for batch in _batches(file, list(TIMES)):
            for name, unit in units.items():
                unit.add(column(batch, name, "left out"))
            day = _day(batch, spec)
            days.update(np.unique(day[day > 0]).tolist())
    for name, unit in units.items():
        unit.check(f"{files[0].parent}: {name}")
    if not days:
        raise ValueError(f"{files[0].parent}: {_no_times(units['arrival_time'])}")
    if len(days) > MAX_DAYS:
        raise ValueError(
            f"{files[0].parent}: arrival_time covers {len(days)} days, want at most {MAX_DAYS}; "
            "write it in milliseconds since 1970"
        )
    return sorted(days)


def _check_created(file: Path) -> None:
    """ValueError where most posts were created at times in another unit."""
    created = Units()
    for batch in _batches(file, ["created_ms"]):
        numbers = column(batch, "created_ms", "left out")
        created.add(numbers[numbers != UNKNOWN])
    created.check(f"{file}: created_ms")


def _no_times(arrival: Units) -> str:
    span = arrival.whole
    have = f"it is {span.low} to {span.high}" if span else "there is none"
    return (
        f"no impression has an arrival_time between 2000 and 2099, {have}; "
        "want milliseconds since 1970 (UTC)"
    )


def _batches(file: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        yield from pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=columns)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file} cannot be read ({reason}); write it again") from error


def _day(batch: pa.RecordBatch, spec: Spec) -> Ints:
    """Local days of arrival, 0 where the time is none."""
    time = column(batch, "arrival_time", "zero")
    return np.where(insane(time), 0, spec.day(time))


def _split(files: list[Path], layout: Layout, spec: Spec, days: list[int]) -> int:
    """Writes the rows by arrival day; a long log is read several times, some days at a time."""
    rows, parts = 0, [days[i : i + OPEN_DAYS] for i in range(0, len(days), OPEN_DAYS)]
    with progress("import", len(files) * len(parts)) as advance:
        for part in parts:
            with ExitStack() as stack:
                writers = _writers(stack, layout, spec, part)
                for file in files:
                    rows += _write_some(file, writers, spec, days[0])
                    advance()
    return rows


def _writers(
    stack: ExitStack, layout: Layout, spec: Spec, days: list[int]
) -> dict[int, pq.ParquetWriter]:
    schema = pa.schema([f.with_nullable(True) for f in spec.impression_schema])
    writers = {}
    for day in days:
        path = stack.enter_context(atomic_path(layout.raw_day(spec.day_name(day))))
        writers[day] = stack.enter_context(pq.ParquetWriter(path, schema, compression="zstd"))
    return writers


def _write_some(file: Path, writers: dict[int, pq.ParquetWriter], spec: Spec, first: int) -> int:
    """Writes the rows of the days that have a writer; those of no day are the first day's."""
    schema, rows = next(iter(writers.values())).schema, 0
    for batch in _batches(file, schema.names):
        table = pa.Table.from_batches([batch]).select(schema.names).cast(schema)
        arrived = _day(batch, spec)
        arrived = np.where(arrived > 0, arrived, first)
        for day in np.unique(arrived).tolist():
            if day in writers:
                part = table.filter(pa.array(arrived == day))
                writers[day].write_table(part)
                rows += part.num_rows
    return rows


def _copy(source: Path, target: Path, schema: pa.Schema) -> int:
    nullable = pa.schema([f.with_nullable(True) for f in schema])
    rows = 0
    with atomic_path(target) as path, pq.ParquetWriter(path, nullable, compression="zstd") as out:
        for batch in _batches(source, schema.names):
            out.write_table(pa.Table.from_batches([batch]).select(schema.names).cast(nullable))
            rows += batch.num_rows
    return rows
