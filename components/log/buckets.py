# SPDX-License-Identifier: Apache-2.0
"""Which bucket a key belongs to, and rows dealt out to buckets.

A bucket is a share of the keys by a hash of them: what one step of the day's state holds in memory
at once. The hash is of the values alone, so every engine and every process deals alike. It knows no
file but those that it puts rows aside in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from components.layout.aside import aside
from components.log.columns import Ints, column
from components.log.sessions import mix

ROWS_IN_MEMORY = 1_000_000
"""More rows than these are put aside in files."""

ASIDE = pa.ipc.IpcWriteOptions(compression="lz4")

Numbers = Callable[[pa.Table], Ints]
"""The bucket of each row of a table."""

SALT = 4
"""Tells this hash from those of sessions."""


def bucket_numbers(rows: pa.Table | pa.RecordBatch, keys: Sequence[str], buckets: int) -> Ints:
    """The bucket of each row by its key columns, int64 `[N]` in [0, buckets)."""
    if buckets == 1 or not rows.num_rows:
        return np.zeros(rows.num_rows, np.int64)
    return mix(SALT, *(column(rows, key) for key in keys)) % buckets


def deal(rows: pa.Table, keys: Sequence[str], buckets: int) -> Iterator[pa.Table]:
    """The rows of each bucket in turn, in the order they had."""
    yield from _deal(rows, lambda table: bucket_numbers(table, keys, buckets), buckets)


def _deal(rows: pa.Table, numbers: Numbers, buckets: int) -> Iterator[pa.Table]:
    if buckets == 1:
        yield rows
        return
    number = numbers(rows)
    order = np.argsort(number, kind="stable")
    ends = np.cumsum(np.bincount(number, minlength=buckets))
    for first, end in zip(np.append(0, ends[:-1]), ends, strict=True):
        yield rows.take(pa.array(order[first:end]))


@contextmanager
def dealt(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, keys: Sequence[str], buckets: int
) -> Iterator[Dealt]:
    """Rows of any number by bucket, for the length of a block; many are put aside in files.

    Args:
        batches: the rows, read once.
        schema: theirs.
        keys: the key columns.
        buckets: how many buckets there are.
    """
    with dealt_by(
        batches, schema, lambda rows: bucket_numbers(rows, keys, buckets), buckets
    ) as rows:
        yield rows


@contextmanager
def dealt_by(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, numbers: Numbers, buckets: int
) -> Iterator[Dealt]:
    """As `dealt`, by another rule of which bucket a row is in."""
    with ExitStack() as held:
        rows = Dealt(held, schema, numbers, buckets)
        rows.take(batches)
        yield rows


class Dealt:
    """Rows by bucket: in memory as long as they are few, else in a file a bucket.

    Args:
        files: keeps the files until it is closed.
        schema: that of the rows.
        numbers: says which bucket a row is in.
        buckets: how many there are.
    """

    def __init__(self, files: ExitStack, schema: pa.Schema, numbers: Numbers, buckets: int) -> None:
        self._files, self._schema, self._numbers, self._buckets = files, schema, numbers, buckets
        self._held: list[pa.RecordBatch] = []
        self._shares: list[pa.Table] = []
        self._folder: Path | None = None

    def take(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Deals all rows out."""
        with ExitStack() as open_:
            writers: list[pa.ipc.RecordBatchStreamWriter] = []
            held = 0
            for batch in batches:
                self._held.append(batch)
                held += batch.num_rows
                if held > ROWS_IN_MEMORY:
                    writers = writers or self._writers(open_)
                    self._put_aside(writers)
                    held = 0
            if writers:
                self._put_aside(writers)
            else:
                self._shares = [*self._deal_held()]

    def bucket(self, number: int) -> pa.Table:
        """The rows of one bucket, in the order they came."""
        if self._folder:
            with pa.OSFile(str(_path(self._folder, number))) as file:
                return pa.ipc.open_stream(file).read_all()
        return self._shares[number]

    def _writers(self, open_: ExitStack) -> list[pa.ipc.RecordBatchStreamWriter]:
        self._folder = self._files.enter_context(aside("buckets"))
        paths = [_path(self._folder, number) for number in range(self._buckets)]
        sinks = [open_.enter_context(pa.OSFile(str(path), "wb")) for path in paths]
        streams = [pa.ipc.new_stream(sink, self._schema, options=ASIDE) for sink in sinks]
        return [open_.enter_context(stream) for stream in streams]

    def _put_aside(self, writers: Sequence[pa.ipc.RecordBatchStreamWriter]) -> None:
        for writer, share in zip(writers, self._deal_held(), strict=True):
            writer.write_table(share)

    def _deal_held(self) -> Iterator[pa.Table]:
        rows = pa.Table.from_batches(self._held, self._schema)
        self._held.clear()
        return _deal(rows, self._numbers, self._buckets)


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number}.arrow"
