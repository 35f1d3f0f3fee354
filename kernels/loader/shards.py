# SPDX-License-Identifier: Apache-2.0
"""Reading one shard: an Arrow IPC file is checked once, here, and becomes flat NumPy columns.

Nothing past this module checks a shard again. It knows the form of a shard (list columns of equal
lengths, `known`, `loss`, `context`), and takes the columns to read as a description; it knows no
feature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kernels.loader.checksums import checksum_of, recorded_checksum
from kernels.loader.reference import AUXILIARY, TARGET, Array, Ints, Packed, concatenate, offsets

REBUILD = "build the sequences again"


@dataclass(frozen=True, kw_only=True)
class ShardFormat:
    """What to read from a shard.

    Attributes:
        columns: element type of each list column to read, one element an impression; `known` and
            `loss` are always read.
        context_width: C, floats in `context` for each impression with `loss == 1`.
        keys: int64 columns with one value a sequence.
        metadata: schema metadata that a shard must carry, for example the hash of the spec it was
            built with.
    """

    columns: Mapping[str, pa.DataType]
    context_width: int
    keys: tuple[str, ...] = ("member_id", "start")
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def elements(self) -> dict[str, pa.DataType]:
        """Every list column with one element an impression, and its element type."""
        return {**self.columns, "known": pa.int32(), "loss": pa.int8()}


@dataclass(frozen=True)
class ShardInfo:
    """What is known of a shard before it is read: counted on its `loss` column alone.

    `checksum` is the one that was recorded beside it, or the file's own where none was.
    """

    path: Path
    sequences: int
    impressions: int
    targets: int
    auxiliary: int
    metadata: dict[str, str]
    checksum: int


def inspect_shard(path: Path, form: ShardFormat) -> ShardInfo:
    """Checks the schema and counts; decodes nothing but the `loss` column.

    Raises:
        ValueError: the file is missing, unreadable, or of another schema; one sentence that names
            it.
    """
    content = _map(path)
    schema = _open(path, content).schema
    _check_schema(path, schema, form)
    batches = _read(path, content, schema, ["loss"])
    loss = np.concatenate([_flat(path, "loss", batch.column("loss"))[1] for batch in batches])
    recorded = recorded_checksum(path)
    return ShardInfo(
        path=path,
        sequences=sum(batch.num_rows for batch in batches),
        impressions=len(loss),
        targets=int(np.count_nonzero(loss == TARGET)),
        auxiliary=int(np.count_nonzero(loss == AUXILIARY)),
        metadata=_metadata(schema),
        checksum=checksum_of(content) if recorded is None else recorded,
    )


@dataclass(frozen=True, kw_only=True)
class Part:
    """One record batch as it lies in memory; its values are not checked yet.

    Attributes:
        columns: one array a list column, `[M]` or `[M, E]`.
        starts: int64 `[S + 1]`, offsets of the sequences in M, rising from zero to M.
        context: float32, flat.
        context_starts: int64 `[S + 1]`, offsets of the sequences in `context`.
        keys: int64 columns `[S]`.
    """

    columns: dict[str, Array]
    starts: Ints
    context: npt.NDArray[np.float32]
    context_starts: Ints
    keys: dict[str, Ints]


def read_shard(
    path: Path, form: ShardFormat, first: int = 0, checksum: int | None = None
) -> Packed:
    """A whole shard as flat columns.

    Args:
        path: the file.
        form: what to read from it.
        first: the number of its first sequence over all shards.
        checksum: of the shard that was inspected; None is the one recorded beside it, if any.

    Raises:
        ValueError: the file is truncated or corrupted, has another checksum, a column is missing or
            of another type, or columns disagree; one sentence that names the file.
    """
    packs = []
    for part in read_parts(path, form, checksum):
        packs.append(_checked(path, part, form, first))
        first += packs[-1].num_sequences
    return concatenate(packs)


def read_parts(
    path: Path, form: ShardFormat, checksum: int | None = None, pool: Executor | None = None
) -> list[Part]:
    """The record batches of a shard, one or more, decoded by `pool`; see `read_shard`.

    All is checked but the values of `known` and `loss` and the length of `context`.
    """
    content = _map(path)
    expected = recorded_checksum(path) if checksum is None else checksum
    intact = _later(pool, lambda: expected is None or checksum_of(content) == expected)
    try:
        schema = _open(path, content).schema
        _check_schema(path, schema, form)
        names = [*form.keys, *form.elements, "context"]
        batches = _read(path, content, schema, names, pool)
    finally:  # a wrong checksum says more than what the damage led to
        if not intact():
            raise broken(path, "is damaged or was replaced: it differs from its checksum")
    return [_part(path, batch, form) for batch in batches]


def _later(pool: Executor | None, task: Callable[[], bool]) -> Callable[[], bool]:
    """What the task gives: begun now in the pool, or run when it is asked for."""
    return task if pool is None else pool.submit(task).result


def _part(path: Path, batch: pa.RecordBatch, form: ShardFormat) -> Part:
    starts, _ = _flat(path, "loss", batch.column("loss"))
    columns: dict[str, Array] = {}
    for name in form.elements:
        own, columns[name] = _flat(path, name, batch.column(name))
        if not np.array_equal(own, starts):
            raise broken(path, f"columns 'loss' and {name!r} differ in length")
    context_starts, context = _flat(path, "context", batch.column("context"))
    return Part(
        columns=columns,
        starts=starts,
        context=context,
        context_starts=context_starts,
        keys={name: _key(path, name, batch.column(name)) for name in form.keys},
    )


def _key(path: Path, name: str, array: pa.Array) -> Ints:
    if array.null_count:
        raise broken(path, f"column {name!r} has a null")
    return np.asarray(array.to_numpy())


def _checked(path: Path, part: Part, form: ShardFormat, first: int) -> Packed:
    known, loss, starts = part.columns["known"], part.columns["loss"], part.starts
    _check_values(path, known, loss, starts)
    cu_targets = offsets(loss == TARGET)[starts]
    if not np.array_equal(part.context_starts, cu_targets * form.context_width):
        raise broken(path, f"'context' wants {form.context_width} values for each target")
    return Packed(
        columns=part.columns,
        cu_seqlens=starts.astype(np.int32),
        context_RC=part.context.reshape(int(cu_targets[-1]), form.context_width),
        sequence_S=np.arange(first, first + len(starts) - 1, dtype=np.int64),
        keys=part.keys,
    )


def broken(path: Path, what: str) -> ValueError:
    """The error that a broken shard is."""
    return ValueError(f"shard {path}: {what}; {REBUILD}")


def _metadata(schema: pa.Schema) -> dict[str, str]:
    pairs = (schema.metadata or {}).items()
    return {k.decode(errors="replace"): v.decode(errors="replace") for k, v in pairs}


def _map(path: Path) -> pa.Buffer:
    """The file's bytes, mapped once for its checksum and all readers of it."""
    try:
        return pa.memory_map(str(path)).read_buffer()
    except FileNotFoundError as error:
        raise ValueError(f"shard {path} does not exist; {REBUILD}") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise broken(path, f"cannot be read ({_brief(error)})") from error


def _open(path: Path, content: pa.Buffer, fields: list[int] | None = None) -> Any:
    options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
    try:
        return pa.ipc.open_file(content, options=options)
    except (pa.ArrowException, OSError) as error:
        raise broken(path, f"is not a whole Arrow IPC file ({_brief(error)})") from error


def _read(
    path: Path,
    content: pa.Buffer,
    schema: pa.Schema,
    names: list[str],
    pool: Executor | None = None,
) -> list[pa.RecordBatch]:
    """The record batches with these columns; an empty one where the file has none."""
    fields = sorted(schema.get_field_index(name) for name in names)

    def read(number: int) -> pa.RecordBatch:
        batch = _open(path, content, fields).get_batch(number)
        batch.validate(full=True)
        return batch

    try:
        count = _open(path, content).num_record_batches
        if count == 0:
            return [pa.RecordBatch.from_pylist([], pa.schema([schema.field(i) for i in fields]))]
        return list((map if pool is None else pool.map)(read, range(count)))
    except (pa.ArrowException, OSError) as error:
        raise broken(path, f"is truncated or corrupted ({_brief(error)})") from error


def _brief(error: BaseException) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def _check_schema(path: Path, schema: pa.Schema, form: ShardFormat) -> None:
    wanted = {**{k: pa.int64() for k in form.keys}}
    lists = {**form.elements, "context": pa.float32()}
    for name in [*wanted, *lists]:
        if schema.get_field_index(name) < 0:
            raise broken(path, f"column {name!r} is missing")
    for name, kind in wanted.items():
        if schema.field(name).type != kind:
            raise broken(path, f"column {name!r} is {schema.field(name).type}, want {kind}")
    for name, kind in lists.items():
        have = schema.field(name).type
        if not pa.types.is_list(have) or not _same(have.value_type, kind):
            raise broken(path, f"column {name!r} is {have}, want a list of {kind}")
    have_metadata = _metadata(schema)
    for key, value in form.metadata.items():
        if have_metadata.get(key) != value:
            raise broken(path, f"has {key} {have_metadata.get(key)!r}, want {value!r}")


def _same(have: pa.DataType, want: pa.DataType) -> bool:
    """Equal types; the names of child fields do not count."""
    if pa.types.is_fixed_size_list(want):
        return bool(
            pa.types.is_fixed_size_list(have)
            and have.list_size == want.list_size
            and have.value_type == want.value_type
        )
    return bool(have == want)


def _flat(path: Path, name: str, array: pa.ListArray) -> tuple[Ints, Array]:
    """Offsets `[S + 1]` from zero and the values `[M]` or `[M, E]` of a list column."""
    starts = np.zeros(1, np.int64)
    values = array.values
    if len(array):
        starts = array.offsets.to_numpy().astype(np.int64)
        values = values.slice(starts[0], starts[-1] - starts[0])
    if array.null_count or values.null_count:
        raise broken(path, f"column {name!r} has a null")
    starts = starts - starts[0]
    if not _is_vector(values.type):
        return starts, values.to_numpy(zero_copy_only=False)
    inner = values.flatten()
    if inner.null_count:
        raise broken(path, f"column {name!r} has a null")
    return starts, inner.to_numpy().reshape(len(values), values.type.list_size)


def _is_vector(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind))


def _check_values(
    path: Path, known: npt.NDArray[Any], loss: npt.NDArray[Any], starts: npt.NDArray[np.int64]
) -> None:
    place = np.arange(len(known)) - np.repeat(starts[:-1], np.diff(starts))
    if len(known) and (known.min() < 0 or bool((known > place).any())):
        raise broken(path, "'known' is below zero or above an impression's own place")
    if len(loss) and (loss.min() < 0 or loss.max() > AUXILIARY):
        raise broken(path, "'loss' holds a value other than 0, 1 and 2")
