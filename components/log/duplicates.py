# SPDX-License-Identifier: Apache-2.0
"""Which rows say a thing again: the same key as an earlier row, and whether all else is equal.

It compares rows of tables, and knows nothing of files, checks or sessions.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from components.log.columns import Ints, Mask, column

DIFFERS = "differs from an earlier row of the same impression"
IMPRESSION_KEY = ("member_id", "post_id", "event_time")


def repeats(raw: pa.Table, good: Mask, earlier: pa.Table) -> tuple[Mask, Mask]:
    """Which good rows repeat an impression: exactly, or with a difference; `[N]` each.

    The first to arrive stands; an earlier day's row before any of today's. When a row arrived is no
    difference.
    """
    known = earlier.num_rows
    both = pa.concat_tables([earlier.select(raw.column_names).cast(raw.schema), raw])
    first = first_rows(both, np.append(np.ones(known, np.bool_), good), IMPRESSION_KEY, known)
    again = good & (first[known:] != known + np.arange(raw.num_rows))
    same = np.zeros(raw.num_rows, np.bool_)
    same[again] = same_rows(both.drop_columns("arrival_time"), first)[known:][again]
    return again & same, again & ~same


def first_rows(table: pa.Table, good: Mask, key: tuple[str, ...], known: int = 0) -> Ints:
    """For each row the first good row with its key `[N]`; for a bad row the row itself.

    The `known` leading rows come first, then the order of arrival where it is a column, then rows.
    """
    first = np.arange(table.num_rows)
    rows = np.flatnonzero(good)
    keys = [column(table, name, "zero")[rows] for name in reversed(key)]
    if "arrival_time" in table.column_names:
        keys = [column(table, "arrival_time", "zero")[rows], rows >= known, *keys]
    order = np.lexsort([rows, *keys])
    starts = np.ones(len(order), np.bool_)
    changed = [np.diff(k[order]) != 0 for k in keys[-len(key) :]]
    starts[1:] = np.logical_or.reduce(changed) if len(order) else starts[1:]
    head = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    first[rows[order]] = rows[order][head]
    return first


def same_rows(table: pa.Table, other: Ints) -> Mask:
    """Whether each row holds the same bits as the row `other[i]`, nulls included, `[N]`."""
    moved = np.flatnonzero(other != np.arange(table.num_rows))
    same = np.ones(table.num_rows, np.bool_)
    if not len(moved):
        return same
    left, right = table.take(moved), table.take(other[moved])
    equal = [_same_values(left, right, name) for name in table.column_names]
    same[moved] = np.logical_and.reduce(equal)
    return same


def _same_values(left: pa.Table, right: pa.Table, name: str) -> Mask:
    """Whether two tables have the same bits in each row of a column, `[N]`."""
    nulls = [np.asarray(side[name].is_null()) for side in (left, right)]
    values = [np.ascontiguousarray(column(side, name, "zero")) for side in (left, right)]
    bits = [v.view(np.uint8).reshape(left.num_rows, -1) for v in values]
    return np.asarray((nulls[0] == nulls[1]) & (bits[0] == bits[1]).all(1))
