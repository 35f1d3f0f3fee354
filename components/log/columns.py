# SPDX-License-Identifier: Apache-2.0
"""Arrow columns as numpy arrays and packed records, and back. It reads no file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.kinds import View

Array = npt.NDArray[Any]


def column(table: pa.Table | pa.RecordBatch, name: str) -> Array:
    """A column as numpy, `[n]` or `[n, E]`; a null integer or boolean is -1, a null float NaN.

    Raises:
        ValueError: there is no such column.
    """
    position = table.schema.get_field_index(name)
    if position < 0:
        raise ValueError(f"the table has no column {name!r}; have {', '.join(table.schema.names)}")
    values = table.column(position)
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_fixed_size_list(values.type):
        flat = values.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(-1, values.type.list_size)
    if values.null_count:
        values = values.fill_null(np.nan if pa.types.is_floating(values.type) else -1)
    return values.to_numpy(zero_copy_only=False)


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


def packed_bytes(values: Array) -> pa.Array:
    """Records as one Arrow binary value each."""
    data = pa.py_buffer(np.ascontiguousarray(values).tobytes())
    fixed = pa.binary(values.dtype.itemsize)
    return pa.FixedSizeBinaryArray.from_buffers(fixed, len(values), [None, data]).cast(pa.binary())


def select_list(names: Sequence[str]) -> str:
    """Column names as SQL."""
    return ", ".join(f'"{name}"' for name in names)
