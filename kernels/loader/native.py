# SPDX-License-Identifier: Apache-2.0
"""The C++ packer of `cpu/`: shards stay record batches in Arrow's memory, a batch is one pass.

Gives what `reference.py` gives, bit for bit, at any number of threads. Allocates the batches, in
pinned memory where that is asked for; checks nothing that `shards.py` or the C++ does.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kernels._native import native
from kernels.loader.reference import Array, Ints, Packed, Shuffle
from kernels.loader.shards import Part, ShardFormat, broken, read_parts

SESSION = "session_id"


def available() -> tuple[ModuleType | None, str]:
    """The compiled module, or None; and in words why."""
    return native("loader")


@dataclass(frozen=True, kw_only=True)
class NativeShard:
    """A shard in memory.

    Attributes:
        held: the compiled half, which holds the record batches.
        columns: dtype and shape of an element of each column, in order.
        lengths_S: int64, the impressions of each sequence.
        keys: int64 columns `[S]`.
    """

    held: Any
    columns: dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
    context_width: int
    lengths_S: Ints
    keys: dict[str, Ints]


class NativePacker:
    """Reads and packs with `threads`; batches are in pinned memory with `pin`."""

    def __init__(self, module: ModuleType, threads: int = 1, pin: bool = False) -> None:
        self.module, self.threads, self.pin = module, threads, pin
        # kept: Arrow's allocator gives memory back to the thread that had it, and new threads none
        self._pool = ThreadPoolExecutor(threads, "loader-read") if threads > 1 else None

    def read(self, path: Path, form: ShardFormat, first: int, checksum: int | None) -> NativeShard:
        """A shard, checked; see `read_shard`."""
        parts = read_parts(path, form, checksum, self._pool)
        columns = {n: (a.dtype, a.shape[1:]) for n, a in parts[0].columns.items() if n != "known"}
        widths = [_width(dtype, shape) for dtype, shape in columns.values()]
        held = self.module.Shard(widths, form.context_width, first)
        for part in parts:
            try:
                _add(held, part)
            except ValueError as error:
                raise broken(path, str(error)) from error
        return NativeShard(
            held=held,
            columns=columns,
            context_width=form.context_width,
            lengths_S=np.concatenate([np.diff(part.starts) for part in parts]),
            keys={n: np.concatenate([part.keys[n] for part in parts]) for n in form.keys},
        )

    def gather(
        self,
        pieces: Sequence[tuple[NativeShard, Ints]],
        order: Ints,
        limit: int | None = None,
        shuffle: Shuffle | None = None,
    ) -> Packed:
        """Sequences of several shards in one order; see `reference.gather`."""
        counts = [len(rows) for _, rows in pieces]
        source_S = np.repeat(np.arange(len(pieces)), counts)[order]
        row_S = np.concatenate([rows for _, rows in pieces])[order]
        plan = self.module.Plan([shard.held for shard, _ in pieces], source_S, row_S, limit)
        first = pieces[0][0]
        batch = Packed(
            columns={
                **{
                    n: self._empty((plan.impressions, *s), d) for n, (d, s) in first.columns.items()
                },
                "known": self._empty((plan.impressions,), np.dtype(np.int32)),
            },
            cu_seqlens=self._empty((len(order) + 1,), np.dtype(np.int32)),
            context_RC=self._empty((plan.targets, first.context_width), np.dtype(np.float32)),
            sequence_S=np.empty(len(order), np.int64),
            keys={
                n: np.concatenate([shard.keys[n][rows] for shard, rows in pieces])[order]
                for n in first.keys
            },
        )
        plan.write(
            [column_bytes(batch.columns[name]) for name in first.columns],
            batch.columns["known"],
            batch.context_RC,
            batch.cu_seqlens,
            batch.sequence_S,
            None if shuffle is None else (shuffle.salt, shuffle.trade_slots),
            self.threads,
        )
        return batch

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        if not self.pin:
            return np.empty(shape, dtype)
        count = int(np.prod(shape)) * dtype.itemsize
        pinned = torch.empty(count, dtype=torch.uint8, pin_memory=True)
        return pinned.numpy().view(dtype).reshape(shape)


def _add(held: Any, part: Part) -> None:
    columns = part.columns
    held.add(
        part.starts,
        [column_bytes(array) for name, array in columns.items() if name != "known"],
        columns["known"],
        columns["loss"],
        columns.get(SESSION),
        part.context_starts,
        part.context,
    )


def _width(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    return dtype.itemsize * int(np.prod(shape))


def column_bytes(array: Array) -> npt.NDArray[np.uint8]:
    """`[M, W]`, the bytes of each element of an array of any dtype, sharing its memory."""
    flat = array.reshape(-1).view(np.uint8)
    return flat.reshape(len(array), _width(array.dtype, array.shape[1:]))
