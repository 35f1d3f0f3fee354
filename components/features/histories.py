# SPDX-License-Identifier: Apache-2.0
"""The newest history value of every member, carried from day to day in buckets of members.

A bucket's file is what Feast reads and what the next day starts from. One that does not fit the
log, or is not there, is made anew at once from the whole of it. What a window holds is
`components.features.window_state`'s to say.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.config import DailyConfig
from components.console import progress
from components.features.state import Origin
from components.features.window_state import can_carry, slide, values_schema, window_rows_schema
from components.layout.files import atomic_path, parquet_writer
from components.layout.paths import Layout
from components.log.checks import MAX_LATE_DAYS
from components.log.columns import column, select_list
from components.log.engines import Engine, LogRows, engine_named
from components.log.impressions import Posts, days_through, history_order

VIEW = "history"
GROUP_ROWS = 64
"""Values of a row group of a file; each is up to 65 KB."""
DROPPED_ROWS = 16_384
"""Impressions of a row group of what windows dropped."""
CHUNK_BYTES = 8 * 2**20
"""Values that are carried at once; bounds memory."""
CHUNK_ROWS = 200_000
"""Impressions of members without a value that are built at once."""
DROPPED_DAYS = MAX_LATE_DAYS + 4
"""How long what a window dropped is kept for those who look at earlier days."""


def histories(layout: Layout, day: str, config: DailyConfig) -> int:
    """Brings `features/history/` to the end of a day; returns how many members had news.

    Where the files are of a later day already, they stay.

    Raises:
        ValueError: nothing is ingested through the day.
    """
    days_through(layout, day)
    buckets = Buckets(layout, day, config)
    with progress("histories", config.buckets) as advance:
        grown = 0
        for members in buckets.bring(engine_named(config.engine, layout.root)):
            grown += members
            advance()
    return grown


class Buckets:
    """The files of history values as of the end of a day.

    Args:
        layout: the run.
        day: YYYY-MM-DD, ingested.
        config: names the spec, and says how many buckets there are.
    """

    def __init__(self, layout: Layout, day: str, config: DailyConfig) -> None:
        self.layout, self.day, self.spec, self.count = layout, day, config.spec, config.buckets
        self.wanted = Origin.of_log(layout, day, Origin.key_of(config.spec, config.buckets))

    def bring(self, engine: Engine) -> Iterator[int]:
        """Brings each bucket to the day; how many of its members had news."""
        kept = [Origin.of_file(self.layout.history_bucket(b)) for b in range(self.count)]
        since = [self._since(origin) for origin in kept]
        behind = [day for day in since if day is not None and day < self.day]
        days = {d for d in self.wanted.days if behind and d > min(behind)}
        names = select_list((*self.spec.impression_schema.names, "session_id"))
        rows = LogRows(
            layout=self.layout,
            through_day=self.day,
            days=frozenset(days),
            sql=f"select {names} from impressions",
            keys=("member_id",),
        )
        for grown in engine.by_bucket([rows], self.count, self._step):
            yield grown["grown"][0].as_py()
        self._remove_others()

    def _step(self, bucket: int, rows: Sequence[pa.Table]) -> pa.Table:
        """Brings a bucket to the day, unless it was brought before; `grown`: members with news."""
        since = self._since(Origin.of_file(self.layout.history_bucket(bucket)))
        behind = since is None or since < self.day
        return pa.table({"grown": [self._write(bucket, since or "", rows[0]) if behind else 0]})

    def _since(self, kept: Origin | None) -> str | None:
        """The day through which a bucket's file holds the log; "" where it is to be made anew."""
        fits = kept is not None and (kept.leads_to(self.wanted) or self.wanted.leads_to(kept))
        return kept.day if kept and fits and can_carry(self.spec) else ""

    def _write(self, bucket: int, since: str, rows: pa.Table) -> int:
        """Carries a bucket on from a day's end, "" from nothing; how many members had news."""
        if since:
            late = column(rows, "arrival_time") >= self.spec.day_end(since)
            rows = rows if late.all() else rows.filter(pa.array(late))
        path, grown = self.layout.history_bucket(bucket), 0
        dropped = [window_rows_schema(self.spec).empty_table()]
        with atomic_path(path) as temporary, _writer(temporary, self.wanted) as writer:
            for values, news in _chunks(path if since else None, history_order(rows)):
                slid = slide(values, news, self._posts.of, self.spec)
                writer.write_table(slid.values, row_group_size=GROUP_ROWS)
                dropped.append(slid.dropped)
                grown += slid.grown
            if since:
                self._keep_dropped(bucket, dropped)
        return grown

    def _keep_dropped(self, bucket: int, dropped: list[pa.Table]) -> None:
        """Writes what a bucket's windows dropped on the day, and removes what is too old."""
        path, rows = self.layout.dropped_bucket(self.day, bucket), pa.concat_tables(dropped)
        schema = rows.schema.with_metadata(self.wanted.metadata())
        with parquet_writer(path, schema) as writer:
            writer.write_table(rows, row_group_size=DROPPED_ROWS)
        oldest = self.spec.days_after(self.day, -DROPPED_DAYS)
        for day in self.layout.state("dropped").glob("day=*"):
            if day.name < f"day={oldest}":
                # Another bucket's step may be at it.
                shutil.rmtree(day, ignore_errors=True)

    @cached_property
    def _posts(self) -> Posts:
        return Posts(self.layout)

    def _remove_others(self) -> None:
        """Removes the files of another number of buckets, and those of single days."""
        ours = {self.layout.history_bucket(bucket) for bucket in range(self.count)}
        for path in self.layout.feature_dir(VIEW).glob("*.parquet"):
            if path not in ours:
                path.unlink()


def _writer(path: Path, origin: Origin) -> pq.ParquetWriter:
    """A writer of values, which are compressed already and each is another."""
    schema = values_schema().with_metadata(origin.metadata())
    keys = [name for name in schema.names if name != VIEW]
    compression = {**dict.fromkeys(keys, "zstd"), VIEW: "none"}
    return pq.ParquetWriter(
        path, schema, compression=compression, use_dictionary=False, write_statistics=keys
    )


def _chunks(path: Path | None, rows: pa.Table) -> Iterator[tuple[pa.Table, pa.Table]]:
    """A file's values some at a time, each with the new impressions of its members.

    At the end come the impressions of members beyond the file's, without values.
    """
    members, done = column(rows, "member_id"), 0
    for values in _groups(path) if path else ():
        last = values["member_id"][-1].as_py()
        end = int(np.searchsorted(members, last, side="right"))
        yield values, rows.slice(done, end - done)
        done = end
    nothing = values_schema().empty_table()
    while done < len(members):
        last = members[min(done + CHUNK_ROWS, len(members)) - 1]
        end = int(np.searchsorted(members, last, side="right"))
        yield nothing, rows.slice(done, end - done)
        done = end


def _groups(path: Path) -> Iterator[pa.Table]:
    """The row groups of a file of values, small ones together."""
    held: list[pa.Table] = []
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            held.append(file.read_row_group(group).replace_schema_metadata(None))
            if sum(table.nbytes for table in held) >= CHUNK_BYTES:
                yield pa.concat_tables(held)
                held = []
    if held and sum(table.num_rows for table in held):
        yield pa.concat_tables(held)
