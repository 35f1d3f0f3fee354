# SPDX-License-Identifier: Apache-2.0
"""The history value of every member whose log grew on a day, by the one builder.

`history_batch` turns impressions into history columns for values, sequences and pushes alike, so
offline, online and training cannot differ. It knows nothing of Feast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.config import DailyConfig
from components.console import progress
from components.features.offline import feature_rows, previous_end
from components.layout.files import atomic_path
from components.layout.paths import Layout
from components.log.columns import Array, arrow_column, column, records, select_list
from components.log.impressions import ImpressionLog, history_order, read_posts, with_content
from feature_repo.spec import Spec
from serving.assemble import sequence_features
from serving.history import encode_history

VIEW = "history"
CHUNK_ROWS = 500_000
"""Impressions built at once; bounds memory."""


def histories(layout: Layout, day: str, config: DailyConfig) -> int:
    """Writes a day's `features/history/`: one value per member with news; returns how many.

    News is what arrived since the day before.

    Raises:
        ValueError: nothing is ingested through the day.
    """
    spec = config.spec
    posts = read_posts(layout)
    end = spec.day_end(day)
    with (
        ImpressionLog(layout, day) as log,
        atomic_path(layout.feature_day(VIEW, day)) as temporary,
        pq.ParquetWriter(temporary, _schema(), compression="zstd") as writer,
    ):
        since = previous_end(layout, VIEW, day, spec)
        grown = log.query(_grown_members(since, end))
        members, counts = column(grown, "member_id"), column(grown, "rows")
        with progress("histories", len(members)) as advance:
            for chunk in log.member_chunks(members, counts, CHUNK_ROWS):
                windows = log.query(_window_rows(spec, end), chunk=chunk)
                writer.write_table(_history_rows(windows, posts, spec, end))
                advance(chunk.num_rows)
    return len(members)


def history_batch(
    impressions: pa.Table, spec: Spec, views: Mapping[str, Array] | None = None
) -> pa.RecordBatch:
    """The history columns (`spec.history_schema`) of impressions, in the order they are given.

    Args:
        impressions: `spec.impression_schema`, `session_id` and the posts' content (`with_content`).
        spec: names the columns.
        views: each impression's records as of its own time, where the spec fuses some early.
    """
    ids, time_ms = column(impressions, "post_id"), column(impressions, "event_time")
    content = records(impressions, spec.content)
    request = {
        f.name: column(impressions, f.name)
        for f in spec.with_role("sequence")
        if f.source == "request" and f.name in impressions.column_names
    }
    columns = sequence_features(spec, ids, content, request, time_ms, views)
    arrays = []
    for field in spec.history_schema:
        values = columns[field.name] if field.name in columns else _logged(impressions, field)
        arrays.append(arrow_column(values, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=spec.history_schema)


def encode_histories(impressions: pa.Table, spec: Spec) -> Iterator[tuple[int, bytes]]:
    """Each member's history value, members ascending.

    Args:
        impressions: any members', with `count` (all of the member's impressions so far, int64)
            beside the columns of `history_batch`; at least the rows of each window.
        spec: names the columns.
    """
    ordered = history_order(impressions)
    batch = history_batch(ordered, spec)
    members, starts = np.unique(column(ordered, "member_id"), return_index=True)
    counts = column(ordered, "count")[starts] if len(starts) else starts
    ends = np.append(starts, ordered.num_rows)[1:]
    for member, start, stop, count in zip(members, starts, ends, counts, strict=True):
        rows = batch.slice(start, stop - start)
        yield int(member), encode_history(rows, member_id=int(member), count=int(count), spec=spec)


def _logged(impressions: pa.Table, field: pa.Field) -> Array:
    values = column(impressions, field.name)
    if pa.types.is_floating(field.type) and values.dtype.kind in "iu":
        return np.where(values < 0, np.nan, values).astype(np.float32)
    return values


def _grown_members(since: int | None, end: int) -> str:
    news = "" if since is None else f"having max(arrival_time) >= {since}"
    return (
        f"select member_id, count(*) as rows from impressions where arrival_time < {end} "
        f"group by member_id {news} order by member_id"
    )


def _window_rows(spec: Spec, end: int) -> str:
    """The newest rows of each member in `chunk`, as many as any window holds, and their count."""
    most = spec.max_impressions + spec.block - 1
    names = (*spec.impression_schema.names, "session_id")
    order = "arrival_time desc, event_time desc, post_id desc"
    return (
        f"select {select_list(names)}, count(*) over (partition by member_id) as count "
        f"from impressions semi join chunk using (member_id) where arrival_time < {end} "
        f"qualify row_number() over (partition by member_id order by {order}) <= {most}"
    )


def _schema() -> pa.Schema:
    time = pa.timestamp("us", tz="UTC")
    return pa.schema(
        {
            "member_id": pa.int64(),
            "event_timestamp": time,
            "created_timestamp": time,
            "history": pa.binary(),
        }
    )


def _history_rows(windows: pa.Table, posts: pa.Table, spec: Spec, end: int) -> pa.Table:
    values = list(encode_histories(with_content(windows, posts, spec), spec))
    keys = pa.table({"member_id": pa.array([m for m, _ in values], pa.int64())})
    times = np.full(len(values), end, np.int64)
    rows = feature_rows(keys, times, pa.array([v for _, v in values], pa.binary()))
    return rows.rename_columns(_schema().names)
