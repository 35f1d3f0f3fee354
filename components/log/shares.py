# SPDX-License-Identifier: Apache-2.0
"""A day's rows sorted out by buckets of members: the kept ones and the refused ones of each.

Few rows are one bucket. Many are dealt by the engine: in this process as they are read, elsewhere
by their row groups, each of which is read twice: what the day says of its times and of earlier
days must be known before a row is sorted out. Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from components.layout.paths import Layout
from components.log.arrivals import (
    KEY,
    TIMES,
    Reach,
    Share,
    arrivals,
    earlier_files,
    kept_schema,
    share_count,
    with_reasons,
)
from components.log.columns import column
from components.log.duplicates import DIFFERS, repeats
from components.log.engines import Engine, LocalEngine
from components.log.quarantine import refused_rows, refused_schema
from components.log.schema import BATCH_ROWS, check_schema, nullable, one_sentence
from components.log.sessions import with_sessions
from components.log.times import Span, Units
from feature_repo.spec import Spec

SINCE = "since"
"""In a survey: the earliest impression that the day's rows reach."""
SURVEY = pa.schema(
    {
        "name": pa.string(),
        "unit": pa.string(),
        "count": pa.int64(),
        "low": pa.int64(),
        "high": pa.int64(),
    }
)


@dataclass(frozen=True)
class Sorted:
    """A share's rows.

    Attributes:
        kept: in history order, with their sessions.
        refused: as they came, with the reason.
        read: how many there were, repeated ones too.
    """

    kept: pa.Table
    refused: pa.Table
    read: int


@contextmanager
def sorted_shares(
    layout: Layout, spec: Spec, day: str, buckets: int, engine: Engine
) -> Iterator[Iterator[Sorted]]:
    """What arrived on a day, sorted out, a share at a time; see `arrivals`."""
    if isinstance(engine, LocalEngine):
        with arrivals(layout, spec, day, buckets) as shares:
            yield (sort_out(share, spec) for share in shares)
        return
    check_schema(layout.raw_day(day), spec.impression_schema)
    number, rows = spec.day_number(day), RawRows(layout.raw_day(day), spec, spec.day_number(day))
    since = _surveyed(rows, engine)
    earlier = EarlierRows(earlier_files(layout, spec, number), spec, since)
    step = partial(_step, spec, number)
    tables = engine.by_bucket([rows, earlier], share_count(rows.path, buckets), step)
    # Every step is done before whoever asks writes anything.
    whole = chain([next(tables)], tables)
    yield (_unpacked(table, spec) for table in whole)


def sort_out(share: Share, spec: Spec) -> Sorted:
    """The kept rows in history order, and the refused ones with the reasons."""
    reasons, raw = column(share.rows, "reason"), share.rows.drop_columns("reason")
    duplicate, differs = repeats(raw, reasons == "", share.earlier)
    reasons = np.where(differs, DIFFERS, reasons)
    new = raw.filter(pa.array((reasons == "") & ~duplicate, pa.bool_()))
    kept = with_sessions(new, share.earlier, spec)
    return Sorted(_in_order(kept), refused_rows(raw, reasons), raw.num_rows)


def _in_order(table: pa.Table) -> pa.Table:
    names = ("post_id", "member_id", "event_time", "arrival_time")
    return table.take(np.lexsort([column(table, name) for name in names])).combine_chunks()


@dataclass(frozen=True)
class RawRows:
    """A raw day's rows, each with the `reason` for which it is refused by itself, by row groups."""

    path: Path
    spec: Spec
    day: int
    keys: tuple[str, ...] = KEY

    @property
    def parts(self) -> Sequence[str]:
        """The row groups."""
        return [str(group) for group in range(pq.read_metadata(self.path).num_row_groups)]

    @contextmanager
    def reader(self, parts: Collection[str]) -> Iterator[pa.RecordBatchReader]:
        """The rows of some row groups."""
        schema = refused_schema(self.spec.impression_schema)
        with one_sentence(self.path), pq.ParquetFile(self.path, pre_buffer=False) as file:
            yield pa.RecordBatchReader.from_batches(schema, self._batches(file, parts))

    def _batches(self, file: pq.ParquetFile, parts: Collection[str]) -> Iterator[pa.RecordBatch]:
        wanted, groups = self.spec.impression_schema, [int(part) for part in parts]
        for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=wanted.names):
            rows = pa.Table.from_batches([batch]).select(wanted.names).cast(nullable(wanted))
            yield from with_reasons(rows, self.spec, self.day).to_batches()


@dataclass(frozen=True)
class EarlierRows:
    """The impressions of the days before since a time, by day; none where it is None."""

    files: Sequence[Path]
    spec: Spec
    since: int | None
    keys: tuple[str, ...] = KEY

    @property
    def parts(self) -> Sequence[str]:
        """The files."""
        return [] if self.since is None else [str(file) for file in self.files]

    @contextmanager
    def reader(self, parts: Collection[str]) -> Iterator[pa.RecordBatchReader]:
        """The impressions of some files."""
        schema = kept_schema(self.spec)
        for part in parts:
            check_schema(Path(part), schema)
        data = ds.dataset([*parts], schema=schema)
        seen = ds.field("event_time") >= self.since
        yield data.scanner(filter=seen, batch_size=BATCH_ROWS, batch_readahead=2).to_reader()


def _surveyed(rows: RawRows, engine: Engine) -> int | None:
    """From when on earlier impressions matter; ValueError where no time is in milliseconds."""
    items = [pa.table({"part": [part]}) for part in rows.parts]
    units, since = {name: Units() for name in TIMES}, []
    for batch in engine.each(items, partial(_survey, rows)):
        for row in batch.to_pylist():
            if row["name"] == SINCE:
                since.append(row["low"])
            else:
                units[row["name"]].note(row["unit"], Span(row["count"], row["low"], row["high"]))
    for name in TIMES:
        units[name].refuse_all(f"{rows.path}: {name}")
    return min(since, default=None)


def _survey(rows: RawRows, item: pa.Table) -> Iterator[pa.RecordBatch]:
    """What a row group's times are, and how far back its good rows reach."""
    units, reach = {name: Units() for name in TIMES}, Reach(rows.spec, rows.day)
    with rows.reader(item["part"].to_pylist()) as reader:
        for batch in reader:
            table = pa.Table.from_batches([batch])
            for name in TIMES:
                units[name].add(column(table, name, "left out"))
            reach.add(_good(table))
    found = [
        (name, unit, span.count, span.low, span.high)
        for name in TIMES
        for unit, span in units[name].spans.items()
    ]
    if reach.since is not None:
        found.append((SINCE, "", 1, reach.since, reach.since))
    names = SURVEY.names
    yield pa.RecordBatch.from_pylist([dict(zip(names, row, strict=True)) for row in found], SURVEY)


def _step(spec: Spec, day: int, bucket: int, rows: Sequence[pa.Table]) -> pa.Table:
    """A bucket sorted out: its kept rows, then those refused."""
    raw, earlier = rows
    reach = Reach(spec, day)
    reach.add(_good(raw))
    batches = [batch.filter(pa.array(reach.rows(batch), pa.bool_())) for batch in _whole(earlier)]
    done = sort_out(Share(raw, pa.Table.from_batches(batches, earlier.schema)), spec)
    both = pa.concat_tables([done.kept, done.refused], promote_options="permissive")
    metadata = {"read": str(done.read), "kept": str(done.kept.num_rows)}
    return both.replace_schema_metadata(metadata)


def _unpacked(table: pa.Table, spec: Spec) -> Sorted:
    metadata = table.schema.metadata
    read, kept = int(metadata[b"read"]), int(metadata[b"kept"])
    rows, schema = table.replace_schema_metadata(None), kept_schema(spec)
    refused = refused_schema(spec.impression_schema)
    return Sorted(
        rows.slice(0, kept).select(schema.names).cast(schema),
        rows.slice(kept).select(refused.names).cast(refused),
        read,
    )


def _good(rows: pa.Table) -> pa.Table:
    good = pa.array(column(rows, "reason") == "", pa.bool_())
    return rows.filter(good).drop_columns("reason")


def _whole(table: pa.Table) -> list[pa.RecordBatch]:
    return table.combine_chunks().to_batches()
