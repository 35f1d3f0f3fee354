# SPDX-License-Identifier: Apache-2.0
"""History columns and values of impressions, by the one builder.

`history_batch` turns impressions into history columns for values, sequences and pushes alike, so
offline, online and training cannot differ. It reads no file and knows nothing of Feast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from components.log.columns import Array, arrow_column, column, records
from components.log.impressions import history_order
from feature_repo.spec import Spec
from serving.assemble import sequence_features
from serving.history import encode_history


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


def logged_names(spec: Spec) -> list[str]:
    """The history columns that the log itself says: all but what a post is made of."""
    content = {f.name for f in spec.with_role("sequence") if f.source != "request"} - {"post_id"}
    return [name for name in spec.history_schema.names if name not in content]


def logged_columns(impressions: pa.Table, spec: Spec) -> list[pa.Array]:
    """The columns of `logged_names` of impressions, as a history has them."""
    fields = [spec.history_schema.field(name) for name in logged_names(spec)]
    return [arrow_column(_logged(impressions, field), field.type) for field in fields]


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
