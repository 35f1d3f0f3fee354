# SPDX-License-Identifier: Apache-2.0
"""Members' windows of impressions, carried from day to day in the history values themselves.

A day's value is yesterday's rows and the new ones, cut by the block rule. What a post is made of is
looked up again for every row of a window that grows, so that it is what building it at once would
give. The rows that a window drops are handed back: those who look at earlier days still want them.
Pure functions over Arrow; they know no file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from components.features.history_columns import encode_histories, logged_columns, logged_names
from components.features.offline import feature_rows
from components.log.columns import Ints, Mask, column
from components.log.impressions import history_order, with_content
from feature_repo.spec import Spec, window_start
from serving.history import decode_history

INDEX = "index"
"""Of an impression: how many of the member's came before it."""

PostsOf = Callable[[Ints], pa.Table]
"""Gives the declared posts of some ids."""


@dataclass(frozen=True, kw_only=True)
class Slid:
    """Members' windows at the end of a day.

    Attributes:
        values: the state: a row a member, `values_schema()`, members ascending.
        dropped: the impressions that windows dropped, `window_rows_schema(spec)`.
        grown: how many members had news.
    """

    values: pa.Table
    dropped: pa.Table
    grown: int


def values_schema() -> pa.Schema:
    """The columns of a state of windows, which are those of Feast's rows."""
    time = pa.timestamp("us", tz="UTC")
    return pa.schema(
        {
            "member_id": pa.int64(),
            "event_timestamp": time,
            "created_timestamp": time,
            "history": pa.binary(),
        }
    )


def window_rows_schema(spec: Spec) -> pa.Schema:
    """The columns of windows' impressions: whose, at which index, and what the log says of them."""
    logged = [spec.history_schema.field(name) for name in logged_names(spec)]
    return pa.schema([("member_id", pa.int64()), (INDEX, pa.int64()), *logged])


def can_carry(spec: Spec) -> bool:
    """Whether a window says which posts it shows, so that their content can be looked up again."""
    return "post_id" in spec.history_schema.names


def slide(values: pa.Table, impressions: pa.Table, posts_of: PostsOf, spec: Spec) -> Slid:
    """Some members' windows after new impressions.

    Args:
        values: `values_schema()`, members ascending; those without one begin here.
        impressions: the members' new ones (`spec.impression_schema` and `session_id`), all of which
            arrived after those that the values hold.
        posts_of: gives the content of posts.
        spec: names the columns, and says how windows slide.
    """
    if not impressions.num_rows:
        dropped = window_rows_schema(spec).empty_table()
        return Slid(values=values, dropped=dropped, grown=0)
    new = history_order(impressions)
    members, first, counts = np.unique(
        column(new, "member_id"), return_index=True, return_counts=True
    )
    place, known = _places(values, members)
    old, before = _decoded(values, place[known], members[known], spec)
    count = counts.copy()
    count[known] += before
    index = np.arange(new.num_rows) - np.repeat(first - (count - counts), counts)
    rows = pa.concat_tables([old, logged_rows(new, index, spec)])
    rows = rows.take(np.lexsort([column(rows, INDEX), column(rows, "member_id")]))
    member = np.searchsorted(members, column(rows, "member_id"))
    start = window_start(count, spec.max_impressions, spec.block)
    inside = column(rows, INDEX) >= start[member]
    windows = rows.filter(pa.array(inside)).append_column("count", pa.array(count[member[inside]]))
    content = with_content(windows, posts_of(column(windows, "post_id")), spec)
    encoded = pa.array([value for _, value in encode_histories(content, spec)], pa.binary())
    arrived = column(new, "arrival_time")[first + counts - 1]
    grown = _value_rows(members, spec.day_start(spec.day(arrived) + 1), encoded)
    return Slid(
        values=_merged(values, grown, place[known]),
        dropped=rows.filter(pa.array(~inside)),
        grown=len(members),
    )


def impression_counts(values: pa.Table) -> Ints:
    """How many impressions each of some values' members has had."""
    schemas = (pa.ipc.read_schema(pa.py_buffer(v)) for v in values["history"].to_pylist())
    return np.array([int(schema.metadata[b"count"]) for schema in schemas], np.int64)


def window_rows(values: pa.Table, spec: Spec) -> pa.Table:
    """The impressions that some values hold, `window_rows_schema(spec)`, by member and index."""
    places = np.arange(values.num_rows)
    return _decoded(values, places, column(values, "member_id"), spec)[0]


def logged_rows(impressions: pa.Table, index: Ints, spec: Spec) -> pa.Table:
    """Impressions in history order as windows hold them, each at its index in the log."""
    columns = [impressions["member_id"], pa.array(index), *logged_columns(impressions, spec)]
    return pa.table(columns, schema=window_rows_schema(spec))


def _places(values: pa.Table, members: Ints) -> tuple[Ints, Mask]:
    """Where the members' values are, or would be, and which there are."""
    there = column(values, "member_id")
    place = np.searchsorted(there, members)
    return place, np.append(there, -1)[place] == members


def _decoded(values: pa.Table, places: Ints, members: Ints, spec: Spec) -> tuple[pa.Table, Ints]:
    """The impressions in some of the values, and how many the members have had."""
    names, schema = logged_names(spec), window_rows_schema(spec)
    taken = values["history"].take(pa.array(places)).to_pylist()
    histories = [decode_history(value, spec) for value in taken]
    sizes = np.array([h.batch.num_rows for h in histories], np.int64)
    starts = np.array([h.start for h in histories], np.int64)
    batches = [h.batch.select(names).replace_schema_metadata(None) for h in histories]
    logged = pa.schema([spec.history_schema.field(name) for name in names])
    table = pa.Table.from_batches(batches, logged)
    first = np.cumsum(sizes) - sizes
    index = np.arange(table.num_rows) + np.repeat(starts - first, sizes)
    columns = [pa.array(np.repeat(members, sizes)), pa.array(index), *table.columns]
    counts = np.array([h.count for h in histories], np.int64)
    return pa.table(columns, schema=schema), counts


def _value_rows(members: Ints, end_ms: Ints, values: pa.Array) -> pa.Table:
    rows = feature_rows(pa.table({"member_id": pa.array(members)}), end_ms, values)
    return rows.rename_columns(values_schema().names)


def _merged(values: pa.Table, grown: pa.Table, places: Ints) -> pa.Table:
    """The values with those of the members that grew in the place of their old ones."""
    stay = np.ones(values.num_rows, np.bool_)
    stay[places] = False
    rows = pa.concat_tables([values.filter(pa.array(stay)), grown])
    return rows.take(np.argsort(column(rows, "member_id"), kind="stable"))
