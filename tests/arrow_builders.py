# SPDX-License-Identifier: Apache-2.0
"""Arrow batches that say one thing and hold another: nulls where the schema has none."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

Hole = tuple[str, int, int | None]
"""Which column, which row, and which value of its list; None is the row itself."""


def holes(schema: pa.Schema, rows: int) -> Iterator[Hole]:
    """A null in the first and the last row of every column, and at both ends of its lists."""
    for field in schema:
        inside = [None]
        if pa.types.is_fixed_size_list(field.type):
            inside = [None, 0, field.type.list_size - 1]
        yield from ((field.name, row, place) for row in (0, rows - 1) for place in inside)


def with_hole(batch: pa.RecordBatch, hole: Hole) -> pa.RecordBatch:
    """The batch with one null, under its own schema, which may say that there is none."""
    name, row, place = hole
    values = batch.column(name).to_pylist()
    if place is None:
        values[row] = None
    else:
        values[row][place] = None
    arrays = list(batch.columns)
    arrays[batch.schema.get_field_index(name)] = pa.array(values, batch.schema.field(name).type)
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def stream(*batches: pa.RecordBatch, metadata: dict[str, str] | None = None) -> bytes:
    """The batches as one Arrow IPC stream, whose schema carries `metadata`."""
    sink = pa.BufferOutputStream()
    schema = batches[0].schema.with_metadata(metadata)
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(metadata))
    return sink.getvalue().to_pybytes()


def longer(data: bytes, rows: int, claimed: int) -> bytes:
    """A stream of one batch of `rows` whose message claims more rows than its buffers hold."""
    one, other = (n.to_bytes(8, "little") for n in (rows, claimed))
    schema_end = 8 + int.from_bytes(data[4:8], "little")
    size = int.from_bytes(data[schema_end + 4 : schema_end + 8], "little")
    message = data[schema_end : schema_end + 8 + size]
    assert one in message
    return data[:schema_end] + message.replace(one, other) + data[schema_end + 8 + size :]
