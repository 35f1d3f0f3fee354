# SPDX-License-Identifier: Apache-2.0
"""Ingest: a raw day becomes checked impressions, and every row that does not is accounted for.

Rows are checked, duplicates removed (also of what earlier days brought), sessions named and late
rows counted; bad rows go to quarantine with the reason. Days are ingested in order; a day that is
run again leaves the same bytes. This module knows nothing of features or of the log's source.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from components.layout.files import write_json, write_parquet
from components.layout.paths import Layout
from components.log.checks import MAX_LATE_DAYS, Reasons, impression_reasons
from components.log.columns import Mask, column
from components.log.counts import IngestCounts
from components.log.declarations import ingest_members, ingest_posts
from components.log.duplicates import DIFFERS, repeats
from components.log.quarantine import tally, write_refused
from components.log.schema import check_schema, read_table
from components.log.sessions import gapped_rows, with_sessions
from components.log.times import Units
from feature_repo.spec import Spec

if TYPE_CHECKING:
    from components.config import DailyConfig


def ingest(layout: Layout, day: str, config: DailyConfig) -> IngestCounts:
    """Checks what arrived on a day and writes it in history order, with session ids.

    Reads `raw/`, and the impressions of the seven days before. Writes impressions, quarantine and
    counts of the day, and the posts and members tables (with a quarantine each).

    Raises:
        ValueError: a file is missing or unreadable, a column is missing or of another type, or
            its times are in another unit than milliseconds; nothing is written then.
    """
    spec, number = config.spec, config.spec.day_number(day)
    ignored = _ignored_columns(layout, day, spec)
    raw = read_table(layout.raw_day(day), spec.impression_schema)
    _check_units(layout, day, raw, spec)
    posts, post_counts = ingest_posts(layout, spec, day)
    members, member_counts = ingest_members(layout, spec)
    kept, duplicate, reasons = _sort_out(layout, spec, number, raw)
    write_refused(layout.quarantine_day(day), raw, reasons)
    write_parquet(layout.impressions_day(day), kept)
    counts = IngestCounts(
        day=day,
        read=raw.num_rows,
        duplicates=int(duplicate.sum()),
        quarantined=tally(reasons),
        ignored_columns=ignored,
        posts=post_counts,
        members=member_counts,
        **_kept_counts(kept, spec, number),
        unknown_posts=_absent("post_id", kept, posts),
        unknown_members=_absent("member_id", kept, members),
    )
    assert counts.read == counts.kept + counts.duplicates + sum(counts.quarantined.values())
    write_json(layout.ingest_counts(day), asdict(counts))
    return counts


def _ignored_columns(layout: Layout, day: str, spec: Spec) -> list[str]:
    """Checks the three schemas and returns the columns the spec does not name."""
    impressions = check_schema(layout.raw_day(day), spec.impression_schema)
    posts = check_schema(layout.raw_posts, spec.post_schema)
    return sorted(impressions + posts + check_schema(layout.raw_members, spec.member_schema))


def _check_units(layout: Layout, day: str, raw: pa.Table, spec: Spec) -> None:
    """ValueError where a column has times, and none of them in milliseconds."""
    created = pa.schema([spec.post_schema.field("created_ms")])
    posts = read_table(layout.raw_posts, created)
    for path, table, name in (
        (layout.raw_day(day), raw, "event_time"),
        (layout.raw_day(day), raw, "arrival_time"),
        (layout.raw_posts, posts, "created_ms"),
    ):
        units = Units()
        units.add(column(table, name, "left out"))
        if units.wrong and not units.count("milliseconds"):
            units.refuse(f"{path}: {name}")


def _sort_out(
    layout: Layout, spec: Spec, day: int, raw: pa.Table
) -> tuple[pa.Table, Mask, Reasons]:
    """The kept rows in history order, which rows are duplicates, and why the others are refused."""
    reasons = impression_reasons(raw, spec, day)
    earlier = _earlier(layout, spec, day, raw.filter(reasons == ""))
    duplicate, differs = repeats(raw, reasons == "", earlier)
    reasons = np.where(differs, DIFFERS, reasons)
    kept = with_sessions(raw.filter((reasons == "") & ~duplicate), earlier, spec)
    return _in_order(kept), duplicate, reasons


def _earlier(layout: Layout, spec: Spec, day: int, good: pa.Table) -> pa.Table:
    """Earlier days' impressions that today's may repeat or continue: none where none can be."""
    schema = spec.impression_schema.append(pa.field("session_id", pa.int64(), nullable=False))
    event = column(good, "event_time", "zero")
    gapped = gapped_rows(good)
    since = [event[event < spec.day_start(day)], event[gapped] - spec.session_gap_ms]
    names = [spec.day_name(d) for d in range(day - MAX_LATE_DAYS, day)]
    files = [p for p in map(layout.impressions_day, names) if p.is_file()]
    if not files or not any(len(part) for part in since):
        return schema.empty_table()
    start = min(int(part.min()) for part in since if len(part))
    for file in files:
        check_schema(file, schema)
    data = ds.dataset([str(file) for file in files], schema=schema)
    return data.to_table(filter=ds.field("event_time") >= start)


def _in_order(table: pa.Table) -> pa.Table:
    names = ("post_id", "member_id", "event_time", "arrival_time")
    return table.take(np.lexsort([column(table, name) for name in names])).combine_chunks()


def _kept_counts(kept: pa.Table, spec: Spec, day: int) -> dict[str, int]:
    """What is counted of the kept rows alone, by its name in `IngestCounts`."""
    timed, event_day = column(kept, "timed"), spec.day(column(kept, "event_time"))
    return {
        "kept": kept.num_rows,
        "late": int((timed & (event_day < day)).sum()),
        "untimed": int((~timed).sum()),
        "sessions": len(np.unique(column(kept, "session_id"))),
    }


def _absent(key: str, kept: pa.Table, known: pa.Table) -> int:
    """How many rows have a key that a table does not have."""
    return int((~np.isin(column(kept, key), column(known, key))).sum())
