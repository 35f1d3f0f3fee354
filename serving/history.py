# SPDX-License-Identifier: Apache-2.0
"""The history value: a member's window of impressions as one Arrow IPC stream.

One codec and one visibility rule (`known_counts`) for the offline builder, the online store,
training and the cache. This module knows nothing of Feast, files or models; it needs numpy, pyarrow
and the feature spec.

A value is an Arrow IPC stream of one record batch (lz4, `spec.history_schema`, metadata
`member_id`, `count`, `spec_hash`) and then the CRC-32 of the stream in four little-endian bytes.
Any Arrow reader stops before the checksum, at the stream's end.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.spec import Freshness, Spec, window_start

CHECKSUM_BYTES = 4
OVERHEAD_BYTES = 65_536
"""What a value may hold beyond its rows: schema, metadata and the padding of its buffers."""
WRITE = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
READ = pa.ipc.IpcReadOptions(use_threads=False)

_READ_ERRORS = (pa.ArrowException, OSError, MemoryError, UnicodeError)


@dataclass(frozen=True)
class History:
    """A member's window of impressions, oldest first.

    Attributes:
        batch: `spec.history_schema`, one row an impression, ordered by (arrival_time, event_time,
            post_id).
        count: n, how many impressions the member had, those before the window included.
        start: the index of the window's first impression; `count == start + batch.num_rows`.
        member_id: whose history it is; None for an empty one.
    """

    batch: pa.RecordBatch
    count: int
    start: int
    member_id: int | None = None

    def known(self, spec: Spec, freshness: Freshness) -> npt.NDArray[np.int32]:
        """`known` of each row, int32 `[batch.num_rows]`, counted from the window's start."""
        event, arrival, timed = (
            self.batch.column(name).to_numpy(zero_copy_only=False)
            for name in ("event_time", "arrival_time", "timed")
        )
        return known_counts(event, arrival, spec, freshness, timed=timed)

    def tail(self, rows: int) -> History:
        """The newest `rows` impressions alone."""
        keep = min(rows, self.batch.num_rows)
        batch = self.batch.slice(self.batch.num_rows - keep)
        return History(batch, self.count, self.count - keep, self.member_id)


def known_counts(
    event_time: npt.NDArray[np.int64],
    arrival_time: npt.NDArray[np.int64],
    spec: Spec,
    freshness: Freshness,
    *,
    timed: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.int32]:
    """How many impressions of the same member were known when each one was served.

    Args:
        event_time: int64 `[n]` ms, when each was served; rows are in history order.
        arrival_time: int64 `[n]` ms, not decreasing, each at or after its event_time.
        spec: gives the local day.
        freshness: how late serving is.
        timed: bool `[n]`; of an untimed row only the order is known: it knows all rows before it.

    Returns:
        int32 `[n]`, the length of the known prefix; never above a row's own index.
    """
    arrival = np.asarray(arrival_time, np.int64)
    cutoff = spec.cutoff(np.asarray(event_time, np.int64), freshness)
    known = np.searchsorted(arrival, cutoff, side="left").astype(np.int32)
    index = np.arange(len(arrival), dtype=np.int32)
    if timed is not None:
        known = np.where(timed, known, index)
    return np.minimum(known, index)


def encode_history(columns: pa.RecordBatch, *, member_id: int, count: int, spec: Spec) -> bytes:
    """The history value of a member after `count` impressions; the same rows give the same bytes.

    Args:
        columns: `spec.history_schema`, newest last, at least the window's rows; older are left out.
        member_id: whose history it is.
        count: n, all impressions of the member so far.
        spec: names the columns; its hash is written into the value.

    Raises:
        ValueError: wrong columns, a null, or fewer rows than the window holds.
    """
    start = int(window_start(count, spec.max_impressions, spec.block))
    rows = count - start
    if columns.num_rows < rows:
        raise ValueError(
            f"member {member_id}: history has {columns.num_rows} rows, the window of {count} "
            f"impressions holds {rows}; build it from the whole log"
        )
    metadata = {"member_id": str(member_id), "count": str(count), "spec_hash": spec.hash}
    window = columns.slice(columns.num_rows - rows)
    arrays = [_plain(window, field) for field in spec.history_schema]
    schema = spec.history_schema.with_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=WRITE) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    stream = sink.getvalue().to_pybytes()
    return stream + zlib.crc32(stream).to_bytes(CHECKSUM_BYTES, "little")


def decode_history(value: bytes | None, spec: Spec) -> History:
    """The history in a value; None or b"" is the empty history of a new member.

    Raises:
        ValueError: damaged or truncated bytes, another spec, or more rows than a window may hold.
    """
    if not value:
        return empty_history(spec)
    limit = max_value_bytes(spec)
    if len(value) > limit:
        raise ValueError(f"history value has {len(value)} bytes, want at most {limit}; rebuild it")
    stream, checksum = value[:-CHECKSUM_BYTES], value[-CHECKSUM_BYTES:]
    if zlib.crc32(stream).to_bytes(CHECKSUM_BYTES, "little") != checksum:
        raise ValueError("history value is damaged: its checksum does not match; rebuild it")
    try:
        return _read(stream, spec)
    except _READ_ERRORS as error:
        text = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise ValueError(f"history value cannot be read ({text}); rebuild it") from error


def empty_history(spec: Spec) -> History:
    """The history of a member who has seen nothing."""
    arrays = [pa.array([], field.type) for field in spec.history_schema]
    return History(pa.RecordBatch.from_arrays(arrays, schema=spec.history_schema), 0, 0)


def history_as_of(batch: pa.RecordBatch, count: int, cutoff_ms: int) -> pa.RecordBatch:
    """The rows of the window after `count` impressions that arrived before `cutoff_ms`."""
    assert batch.num_rows <= count, "a window holds no more impressions than there are"
    arrival = batch.column("arrival_time").to_numpy()
    return batch.slice(0, int(np.searchsorted(arrival, cutoff_ms, side="left")))


def max_value_bytes(spec: Spec) -> int:
    """The most bytes a value of this spec may have."""
    rows = spec.max_impressions + spec.block - 1
    width = sum(_row_bytes(field.type) for field in spec.history_schema)
    return OVERHEAD_BYTES + 2 * rows * width


def _row_bytes(kind: pa.DataType) -> int:
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size * kind.value_type.bit_width // 8)
    return max(int(kind.bit_width) // 8, 1)


def _plain(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    """The column in fresh buffers, no offset, validity or slack: equal values are equal bytes."""
    position = batch.schema.get_field_index(field.name)
    if position < 0:
        raise ValueError(f"history has no column {field.name!r}; the spec wants it as {field.type}")
    column = batch.column(position)
    if column.type != field.type or nulls_in(column):
        raise ValueError(
            f"history column {field.name!r} is {column.type} with {nulls_in(column)} nulls, "
            f"want {field.type} without nulls"
        )
    if pa.types.is_fixed_size_list(field.type):
        values = column.flatten().to_numpy(zero_copy_only=False)
        return pa.FixedSizeListArray.from_arrays(
            pa.array(values.copy()), field.type.list_size
        ).cast(field.type)
    return pa.array(column.to_numpy(zero_copy_only=False).copy(), field.type)


def nulls_in(column: pa.Array) -> int:
    """How many nulls the column has, in its rows and in their lists.

    A schema that says "not null" does not keep them out: readers take its word, so we count.
    """
    if not pa.types.is_fixed_size_list(column.type):
        return int(column.null_count)
    return int(column.null_count + column.flatten().null_count)


def _read(stream: bytes, spec: Spec) -> History:
    reader = pa.ipc.open_stream(stream, options=READ)
    metadata = {k.decode(): v.decode() for k, v in (reader.schema.metadata or {}).items()}
    built_with = metadata.get("spec_hash", "unknown")
    if built_with != spec.hash:
        raise ValueError(
            f"history value was built with spec {built_with[:16]}, this one is {spec.hash}; "
            "rebuild the histories with this spec"
        )
    if not reader.schema.equals(spec.history_schema):
        raise ValueError("history value has other columns than its spec says; rebuild it")
    member_id, count = (_integer(metadata, name) for name in ("member_id", "count"))
    batches = list(reader)
    if len(batches) != 1:
        raise ValueError(
            f"history value of member {member_id} is {len(batches)} record batches, want one; "
            "rebuild it"
        )
    [batch] = batches
    batch.validate(full=True)
    start = int(window_start(count, spec.max_impressions, spec.block))
    if batch.num_rows != count - start:
        raise ValueError(
            f"history value of member {member_id} has {batch.num_rows} rows, "
            f"want {count - start} after {count} impressions; rebuild it"
        )
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if nulls_in(column):
            raise ValueError(
                f"history value of member {member_id} has a null in {name}; rebuild it"
            )
    return History(batch, count, start, member_id)


def _integer(metadata: dict[str, str], name: str) -> int:
    text = metadata.get(name, "")
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise ValueError(f"history value has {name} {text[:20]!r}, want an integer; rebuild it")
    return int(text)
