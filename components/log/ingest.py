# SPDX-License-Identifier: Apache-2.0
"""Ingest: a raw day becomes checked impressions, and every row that does not is accounted for.

Rows are checked, duplicates removed (also of what earlier days brought), sessions named and late
rows counted; bad rows go to quarantine with the reason. Days are ingested in order; a day that is
run again leaves the same bytes. This module knows nothing of features or of the log's source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.layout.files import parquet_writer, write_json
from components.layout.paths import Layout
from components.log.arrivals import kept_schema
from components.log.columns import Ints, column
from components.log.counts import IngestCounts
from components.log.declarations import ingest_members, ingest_posts
from components.log.engines import engine_named
from components.log.quarantine import refused_schema, tally
from components.log.schema import check_schema, read_table
from components.log.shares import sorted_shares
from components.log.times import Units
from feature_repo.spec import Spec

if TYPE_CHECKING:
    from components.config import DailyConfig


def ingest(layout: Layout, day: str, config: DailyConfig) -> IngestCounts:
    """Checks what arrived on a day and writes it with session ids.

    Reads `raw/`, and the impressions of the seven days before. Writes impressions, quarantine and
    counts of the day, and the posts and members tables (with a quarantine each). A day that is not
    held in memory is written a bucket of members after another, each in history order.

    Raises:
        ValueError: a file is missing or unreadable, a column is missing or of another type, or
            its times are in another unit than milliseconds; nothing is written then.
    """
    spec, number = config.spec, config.spec.day_number(day)
    sums, quarantined = Counter[str](), Counter[str]()
    ignored = _ignored_columns(layout, day, spec)
    engine = engine_named(config.engine, layout.root)
    with sorted_shares(layout, spec, day, config.buckets, engine) as shares:
        _check_posts_unit(layout, spec)
        posts, post_counts = ingest_posts(layout, spec, day)
        members, member_counts = ingest_members(layout, spec)
        with _writers(layout, spec, day) as (impressions, quarantine):
            for share in shares:
                impressions.write_table(share.kept)
                quarantine.write_table(share.refused)
                quarantined.update(tally(column(share.refused, "reason")))
                sums.update(read=share.read, **_kept_counts(share.kept, spec, number))
                sums.update(
                    unknown_posts=_absent("post_id", share.kept, posts),
                    unknown_members=_absent("member_id", share.kept, members),
                )
    counts = IngestCounts(
        day=day,
        **sums,
        duplicates=sums["read"] - sums["kept"] - quarantined.total(),
        quarantined=dict(sorted(quarantined.items())),
        ignored_columns=ignored,
        posts=post_counts,
        members=member_counts,
    )
    write_json(layout.ingest_counts(day), asdict(counts))
    return counts


def _ignored_columns(layout: Layout, day: str, spec: Spec) -> list[str]:
    """Checks the three schemas and returns the columns the spec does not name."""
    impressions = check_schema(layout.raw_day(day), spec.impression_schema)
    posts = check_schema(layout.raw_posts, spec.post_schema)
    return sorted(impressions + posts + check_schema(layout.raw_members, spec.member_schema))


def _check_posts_unit(layout: Layout, spec: Spec) -> None:
    """ValueError where posts have times of creation, and none of them in milliseconds."""
    created = pa.schema([spec.post_schema.field("created_ms")])
    units = Units()
    units.add(column(read_table(layout.raw_posts, created), "created_ms", "left out"))
    units.refuse_all(f"{layout.raw_posts}: created_ms")


@contextmanager
def _writers(
    layout: Layout, spec: Spec, day: str
) -> Iterator[tuple[pq.ParquetWriter, pq.ParquetWriter]]:
    """The writers of a day's impressions and of those refused, which are renamed first."""
    refused = refused_schema(spec.impression_schema)
    with (
        parquet_writer(layout.impressions_day(day), kept_schema(spec)) as impressions,
        parquet_writer(layout.quarantine_day(day), refused) as quarantine,
    ):
        yield impressions, quarantine


def _kept_counts(kept: pa.Table, spec: Spec, day: int) -> dict[str, int]:
    """What is counted of the kept rows alone, by its name in `IngestCounts`."""
    timed, event_day = column(kept, "timed"), spec.day(column(kept, "event_time"))
    return {
        "kept": kept.num_rows,
        "late": int((timed & (event_day < day)).sum()),
        "untimed": int((~timed).sum()),
        "sessions": len(np.unique(column(kept, "session_id"))),
    }


def _absent(key: str, kept: pa.Table, known: Ints) -> int:
    """How many rows have a key that is not among those known, which are in order."""
    ids = column(kept, key)
    place = np.searchsorted(known, ids)
    return int((np.append(known, -1)[place] != ids).sum())
