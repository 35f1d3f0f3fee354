# SPDX-License-Identifier: Apache-2.0
"""Reads checked impressions and posts, and puts the content of each post beside its impressions.

It knows nothing of counters, histories or Feast.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.layout.aside import aside
from components.layout.paths import Layout
from components.log.columns import Array, Ints, arrow_column, column, lookup, select_list
from feature_repo.kinds import arrow_field
from feature_repo.quoting import duckdb_parquet
from feature_repo.spec import Spec

HISTORY_ORDER = ("arrival_time", "event_time", "post_id")
CONTENT_KEYS = ("actor_id", "root_actor_id", "created_ms")
AUTHORS = ["post_id", "actor_id", "root_actor_id"]
POSTS_HELD = 2_000_000
"""Posts that are held in memory as a whole."""
MEMORY_MB = 768
THREAD_MB = 128
"""The most memory that a query takes before it spills: the first, or so much for each core."""
BATCH_ROWS = 131_072
"""Rows of an answer that are read at once."""


def read_posts(layout: Layout) -> pa.Table:
    """The checked posts table; ValueError if it is not there."""
    return _read(layout.posts).combine_chunks()


def read_members(layout: Layout) -> pa.Table:
    """The checked members table; ValueError if it is not there."""
    return _read(layout.members)


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    if not path.is_file():
        raise ValueError(f"there is no {path}; run ingest first")
    with pq.ParquetFile(path) as file:
        return file.read(columns)


def posts_of(layout: Layout, post_ids: Ints) -> pa.Table:
    """The checked posts of some ids alone, by id; ids that no post has are left out."""
    path = layout.posts
    if not path.is_file():
        raise ValueError(f"there is no {path}; run ingest first")
    schema = pq.read_schema(path)
    return pa.concat_tables([schema.empty_table(), *rows_of(path, "post_id", np.unique(post_ids))])


def rows_of(path: Path, key: str, ids: Ints) -> Iterator[pa.Table]:
    """The rows of a Parquet file with one of some ids, in order; groups of others stay unread.

    Args:
        path: a file whose rows are by the key.
        key: an integer column.
        ids: ascending, each once.
    """
    with pq.ParquetFile(path) as file:
        place = file.schema_arrow.get_field_index(key)
        for group in range(file.num_row_groups):
            if _holds_any(file.metadata.row_group(group).column(place).statistics, ids):
                rows = file.read_row_group(group)
                yield rows.filter(pa.array(np.isin(column(rows, key), ids)))


def _holds_any(held: pq.Statistics | None, ids: Ints) -> bool:
    """Whether a row group may hold any of the ids."""
    if held is None or not held.has_min_max:
        return True
    first, end = np.searchsorted(ids, held.min), np.searchsorted(ids, held.max, "right")
    return bool(first < end)


class Posts:
    """The posts of a run by their ids: held whole where they are few.

    Args:
        layout: the run.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        few = layout.posts.is_file() and _few(layout)
        self._held = read_posts(layout) if few else None

    def of(self, post_ids: Ints) -> pa.Table:
        """The posts of some ids, maybe among others."""
        return posts_of(self._layout, post_ids) if self._held is None else self._held


def _few(layout: Layout) -> bool:
    return pq.read_metadata(layout.posts).num_rows <= POSTS_HELD


def content_records(posts: pa.Table, post_ids: Ints, spec: Spec) -> Array:
    """The content record of each post id, `[n]` of `spec.content.dtype`; the default if unknown."""
    return lookup(posts, "post_id", post_ids, spec.content)


def with_content(impressions: pa.Table, posts: pa.Table, spec: Spec) -> pa.Table:
    """The impressions with their posts' actor, root actor, created_ms and content features."""
    content = content_records(posts, column(impressions, "post_id"), spec)
    fields = [pa.field(name, pa.int64(), nullable=False) for name in CONTENT_KEYS]
    fields += [arrow_field(f) for f in spec.content.features if f.name not in CONTENT_KEYS]
    for field in fields:
        values = arrow_column(content[field.name], field.type)
        impressions = impressions.append_column(field, values)
    return impressions


def history_order(impressions: pa.Table) -> pa.Table:
    """The impressions by member, each member's in history order."""
    keys = [column(impressions, name) for name in (*HISTORY_ORDER[::-1], "member_id")]
    order = np.lexsort(keys)
    if np.array_equal(order, np.arange(len(order))):
        return impressions
    return impressions.take(pa.array(order))


def days_through(layout: Layout, day: str) -> list[str]:
    """The ingested days through one, in order; ValueError if there is none."""
    days = [d for d in layout.impression_days() if d <= day]
    if not days:
        raise ValueError(
            f"no impressions through {day} in {layout.root / 'impressions'}; run ingest first"
        )
    return days


@contextmanager
def bounded_duckdb() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection for the length of a block; all of a process spill beyond one memory.

    What it makes for others to see is temporary.
    """
    memory = max(MEMORY_MB, THREAD_MB * (os.cpu_count() or 1))
    with _database(os.getpid(), memory).cursor() as connection:
        yield connection


@cache
def _database(pid: int, memory_mb: int) -> duckdb.DuckDBPyConnection:
    """A process's database, which takes longer to open than most queries; it ends with it."""
    held = ExitStack()
    atexit.register(held.close)
    folder = held.enter_context(aside("duckdb"))
    settings = {"memory_limit": f"{memory_mb}MB", "temp_directory": str(folder)}
    return held.enter_context(duckdb.connect(config={**settings}))


class ImpressionLog:
    """The impressions that had arrived by the end of a day, read by duckdb with what a query needs.

    A query reads `impressions`, or `events`: those left joined with the posts' `actor_id` and
    `root_actor_id` (0 where the post is unknown).

    Args:
        layout: the run.
        through_day: the last day.
        days: those whose files are read, of the days there are; by default all through the last.
    """

    def __init__(
        self, layout: Layout, through_day: str, days: Collection[str] | None = None
    ) -> None:
        there = days_through(layout, through_day)
        there_files = [layout.impressions_day(d) for d in there]
        files = [layout.impressions_day(d) for d in there if days is None or d in days]
        self.layout = layout
        # Of no day there is nothing, in the columns of any.
        rows = f"{duckdb_parquet(files or there_files[-1:])}{'' if files else ' limit 0'}"
        with ExitStack() as stack:
            self.connection = stack.enter_context(bounded_duckdb())
            self._register_posts()
            self.connection.execute(f"create temp view impressions as select * from {rows}")
            self.connection.execute(
                "create temp view events as select i.*, coalesce(p.actor_id, 0) as actor_id, "
                "coalesce(p.root_actor_id, 0) as root_actor_id "
                "from impressions i left join posts p using (post_id)"
            )
            self._closing = stack.pop_all()

    def _register_posts(self) -> None:
        """The authors of posts: held, where the posts are few."""
        path = self.layout.posts
        if not path.is_file() or _few(self.layout):
            self.connection.register("posts", _read(path, AUTHORS))
            return
        authors = f"select {select_list(AUTHORS)} from {duckdb_parquet([path])}"
        self.connection.execute(f"create temp view posts as {authors}")

    def __enter__(self) -> ImpressionLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @cached_property
    def posts(self) -> pa.Table:
        """The checked posts, whole."""
        return read_posts(self.layout)

    def query(self, sql: str, **tables: pa.Table) -> pa.Table:
        """The answer to a query over `events`, `impressions`, `posts` and the tables given."""
        return self.batches(sql, **tables).read_all()

    def batches(self, sql: str, **tables: pa.Table) -> pa.RecordBatchReader:
        """The answer to a query, some rows at a time."""
        for name, table in tables.items():
            self.connection.register(name, table)
        return self.connection.execute(sql).to_arrow_reader(BATCH_ROWS)

    @staticmethod
    def member_chunks(members: Array, counts: Array, rows: int) -> Iterable[pa.Table]:
        """The members in tables (`member_id`) of about `rows` impressions each."""
        chunk = np.cumsum(counts) // rows
        for part in np.split(members, np.flatnonzero(np.diff(chunk)) + 1):
            if len(part):
                yield pa.table({"member_id": pa.array(part, pa.int64())})
