# SPDX-License-Identifier: Apache-2.0
"""Arrow columns as numpy arrays and packed records, and back. It reads no file.

The one place that says what a null is read as.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.kinds import UNKNOWN, View

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Nulls = Literal["unknown", "zero", "left out"]


def column(table: pa.Table | pa.RecordBatch, name: str, nulls: Nulls = "unknown") -> Array:
    """A column as numpy, `[n]` of the column's own type, or `[n, E]` of embeddings.

    Args:
        table: n rows.
        name: the column's.
        nulls: what a null is read as. "unknown": -1 of an integer, NaN of a float, for those who
            tell it from a value. "zero": 0 or False, for those who look at nulls themselves. "left
            out": no row of the answer. The first two make zeros of an embedding, which is missing
            then.

    Raises:
        ValueError: there is no such column, or a boolean that is to be unknown.
    """
    place = table.schema.get_field_index(name)
    if place < 0:
        raise ValueError(f"the table has no column {name!r}; have {', '.join(table.schema.names)}")
    values = table.column(place)
    if isinstance(values, pa.ChunkedArray):
        # One chunk is there already: putting it together would copy it.
        values = values.chunk(0) if values.num_chunks == 1 else values.combine_chunks()
    if values.null_count:
        if pa.types.is_boolean(values.type) and nulls == "unknown":
            raise ValueError(f"column {name!r} is true or false, and has nulls")
        values = values.drop_null() if nulls == "left out" else _filled(values, nulls)
    if pa.types.is_fixed_size_list(values.type):
        flat = values.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(-1, values.type.list_size)
    return values.to_numpy(zero_copy_only=False)


def _filled(values: pa.Array, nulls: Nulls) -> pa.Array:
    """The values with something in the place of each null."""
    kind = values.type
    if pa.types.is_fixed_size_list(kind):
        zeros = pa.scalar([0.0] * kind.list_size, kind)
        return pc.if_else(values.is_valid(), values, zeros)
    if nulls == "zero":
        return values.fill_null(pa.scalar(0).cast(kind))
    return values.fill_null(np.nan if pa.types.is_floating(kind) else UNKNOWN)


def arrow_column(values: Array, kind: pa.DataType) -> pa.Array:
    """The opposite of `column`: `[n]` or `[n, E]` as an Arrow array of type `kind`."""
    values = np.ascontiguousarray(values)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=kind)
    return pa.array(values, kind)


def records(table: pa.Table, view: View) -> Array:
    """The table's columns as packed records `[n]` of `view.dtype`."""
    assert view.dtype.names is not None
    packed = np.empty(table.num_rows, view.dtype)
    for name in view.dtype.names:
        packed[name] = column(table, name)
    return packed


def lookup(table: pa.Table, key: str, ids: Ints, view: View) -> Array:
    """The record of each id `[n]` in a table whose key is `key`; the view's default if unknown."""
    keys, (wanted, place) = column(table, key), np.unique(ids, return_inverse=True)
    order = np.argsort(keys, kind="stable")
    row = np.searchsorted(keys[order], wanted)
    known = (row < len(order)) & (np.append(keys[order], 0)[row] == wanted)
    packed = np.repeat(view.default, len(wanted))
    packed[known] = records(table.take(pa.array(order[row[known]])), view)
    return packed[place]


def packed_bytes(values: Array) -> pa.Array:
    """Records as one Arrow binary value each."""
    data = pa.py_buffer(np.ascontiguousarray(values).tobytes())
    fixed = pa.binary(values.dtype.itemsize)
    return pa.FixedSizeBinaryArray.from_buffers(fixed, len(values), [None, data]).cast(pa.binary())


def select_list(names: Sequence[str]) -> str:
    """Column names as SQL."""
    return ", ".join(f'"{name}"' for name in names)
