# SPDX-License-Identifier: Apache-2.0
"""Which declaration of a post and of a member stands: a post's first, a member's last.

Reads and writes the two tables beside the impressions, and knows nothing of those.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from components.layout.files import parquet_writer, write_parquet
from components.layout.paths import Layout
from components.log.buckets import Dealt, dealt_by
from components.log.checks import Reasons, member_reasons, post_reasons
from components.log.columns import Ints, Mask, column
from components.log.counts import TableCounts
from components.log.duplicates import first_rows, same_rows
from components.log.quarantine import refused_rows, refused_schema, tally
from components.log.schema import nullable, read_batches, read_table
from feature_repo.spec import Spec

DECLARED = "differs from an earlier declaration of the same post"
POSTS_IN_MEMORY = 250_000
"""Declarations of more posts are read in so many at a time, by their ids."""


def ingest_posts(layout: Layout, spec: Spec, day: str) -> tuple[Ints, TableCounts]:
    """Writes the posts table with the first declaration of each post; returns ids and counts.

    Content is immutable: a declaration that differs from an earlier one, this day's or an earlier
    day's, is refused. The first day of a log begins anew. Many posts are read and written a range
    of ids at a time.
    """
    anew = not (layout.posts.is_file() and any(d < day for d in layout.impression_days()))
    edges = _range_edges(layout, spec, anew)
    refused = layout.root / "quarantine" / "posts.parquet"
    ids, counts = [], []
    with (
        _declared(layout, spec, edges) as declared,
        parquet_writer(refused, refused_schema(spec.post_schema)) as quarantine,
        parquet_writer(layout.posts, spec.post_schema) as posts,
    ):
        for number in range(len(edges) + 1):
            before = _before(layout, spec, None if anew else (edges, number))
            kept, bad, range_counts = _first_stand(declared.bucket(number), before, spec)
            posts.write_table(kept)
            quarantine.write_table(bad)
            ids.append(column(kept, "post_id"))
            counts.append(range_counts)
    return np.concatenate(ids), sum(counts[1:], counts[0])


def _first_stand(
    raw: pa.Table, before: pa.Table, spec: Spec
) -> tuple[pa.Table, pa.Table, TableCounts]:
    """The posts of a range of ids by id, the declarations refused, and the counts.

    Args:
        raw: the declarations as they came.
        before: the posts that earlier days kept.
        spec: says what a post must hold.
    """
    reasons = post_reasons(raw, spec)
    known, both = before.num_rows, pa.concat_tables([before, raw])
    good = np.append(np.ones(known, np.bool_), reasons == "")
    first = first_rows(both, good, ("post_id",))
    same = same_rows(both, first)[known:]
    reasons = np.where((reasons == "") & ~same, DECLARED, reasons)
    stands = first == np.arange(len(first))
    kept = both.filter(good & stands).sort_by("post_id").cast(spec.post_schema)
    # A post that an earlier day declared is kept like a new one: a day run again counts the same.
    new = first_rows(raw, reasons == "", ("post_id",)) == np.arange(raw.num_rows)
    again = (reasons == "") & ~new
    return kept, refused_rows(raw, reasons), _counts(raw, again, np.zeros_like(again), reasons)


def _range_edges(layout: Layout, spec: Spec, anew: bool) -> Ints:
    """The ids at which ranges begin, but for the first range; none where all posts are held."""
    id_schema = pa.schema([spec.post_schema.field("post_id")])
    paths = [layout.raw_posts] if anew else [layout.raw_posts, layout.posts]
    ids = np.concatenate([column(read_table(path, id_schema), "post_id") for path in paths])
    if len(ids) <= POSTS_IN_MEMORY:
        return np.empty(0, np.int64)
    ids.sort()
    return np.unique(ids[POSTS_IN_MEMORY::POSTS_IN_MEMORY])


@contextmanager
def _declared(layout: Layout, spec: Spec, edges: Ints) -> Iterator[Dealt]:
    """The raw declarations by range of ids."""
    tables = read_batches(layout.raw_posts, spec.post_schema)
    batches = (batch for table in tables for batch in table.to_batches())

    def numbers(rows: pa.Table) -> Ints:
        return np.asarray(np.searchsorted(edges, column(rows, "post_id"), side="right"))

    with dealt_by(batches, nullable(spec.post_schema), numbers, len(edges) + 1) as rows:
        yield rows


def _before(layout: Layout, spec: Spec, part: tuple[Ints, int] | None) -> pa.Table:
    """The posts of a range of ids, by its number, that earlier days kept; None is no range."""
    if part is None:
        return nullable(spec.post_schema).empty_table()
    edges, number = part
    rows, post = ds.scalar(True), ds.field("post_id")
    if number > 0:
        rows &= post >= int(edges[number - 1])
    if number < len(edges):
        rows &= post < int(edges[number])
    return read_table(layout.posts, spec.post_schema, rows if len(edges) else None)


def ingest_members(layout: Layout, spec: Spec) -> tuple[Ints, TableCounts]:
    """Writes the members table with the last row of each, which may change; returns ids, counts."""
    raw = read_table(layout.raw_members, spec.member_schema)
    reasons = member_reasons(raw, spec)
    backwards = raw.take(np.arange(raw.num_rows)[::-1])
    last = raw.num_rows - 1 - first_rows(backwards, reasons[::-1] == "", ("member_id",))[::-1]
    again = (reasons == "") & (last != np.arange(raw.num_rows))
    same = again & same_rows(raw, last)
    kept = raw.filter((reasons == "") & ~again).sort_by("member_id").cast(spec.member_schema)
    write_parquet(layout.root / "quarantine" / "members.parquet", refused_rows(raw, reasons))
    write_parquet(layout.members, kept)
    return column(kept, "member_id"), _counts(raw, same, again & ~same, reasons)


def _counts(raw: pa.Table, same: Mask, replaced: Mask, reasons: Reasons) -> TableCounts:
    return TableCounts(
        read=raw.num_rows,
        kept=int(((reasons == "") & ~same & ~replaced).sum()),
        duplicates=int(same.sum()),
        replaced=int(replaced.sum()),
        quarantined=tally(reasons),
    )
