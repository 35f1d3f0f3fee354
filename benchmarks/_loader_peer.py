# SPDX-License-Identifier: Apache-2.0
"""The loader that one would write first: a PyTorch DataLoader whose dataset gives NumPy rows.

Each worker keeps the shard that it reads decoded, so a row is a few slices. It checks nothing:
neither checksums nor values. Knows no feature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from kernels.loader import Packed, ShardFormat, inspect_shard

Row = dict[str, Any]


class Rows(Dataset[Row]):
    """Sequences by number over all shards, each cut to its last `limit` impressions."""

    def __init__(self, paths: Sequence[Path], form: ShardFormat, limit: int) -> None:
        self.paths, self.form, self.limit = paths, form, limit
        self.sizes = [inspect_shard(path, form).sequences for path in paths]
        self.firsts = np.cumsum([0, *self.sizes])
        self._lists: Row
        self._keys: Row
        self._shard, self._lists, self._keys = -1, {}, {}

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def __getitem__(self, number: int) -> Row:
        shard = int(np.searchsorted(self.firsts, number, side="right")) - 1
        if self._shard != shard:
            self._decode(self.paths[shard])
            self._shard = shard
        row = number - self.firsts[shard]
        starts, loss = self._lists["loss"]
        low, high = starts[row], starts[row + 1]
        cut = max(high - low - self.limit, 0)
        out = {name: self._lists[name][1][low + cut : high] for name in self.form.elements}
        starts, context = self._lists["context"]
        dropped = 0
        if cut:
            out["known"] = np.maximum(out["known"] - cut, 0)
            dropped = np.count_nonzero(loss[low : low + cut] == 1) * self.form.context_width
        out["context"] = context[starts[row] + dropped : starts[row + 1]]
        return out | {name: self._keys[name][row] for name in self.form.keys} | {"number": number}

    def _decode(self, path: Path) -> None:
        options = pa.ipc.IpcReadOptions(use_threads=False)
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file, options=options).read_all().combine_chunks()
        self._keys = {name: table.column(name).to_numpy() for name in self.form.keys}
        for name in [*self.form.elements, "context"]:
            array = table.column(name).chunk(0)
            self._lists[name] = (array.offsets.to_numpy(), array.values.to_numpy())


class Batches(Sampler[list[int]]):
    """Shards in a random order, the rows of each in a random order, cut into batches."""

    def __init__(self, sizes: Sequence[int], batch: int) -> None:
        self.sizes, self.batch = sizes, batch

    def __iter__(self) -> Iterator[list[int]]:
        firsts = np.cumsum([0, *self.sizes])
        rng = np.random.default_rng(0)
        order = [
            firsts[i] + rng.permutation(self.sizes[i]) for i in rng.permutation(len(firsts) - 1)
        ]
        numbers = np.concatenate(order).tolist()
        for first in range(0, len(numbers), self.batch):
            yield numbers[first : first + self.batch]

    def __len__(self) -> int:
        return -(-sum(self.sizes) // self.batch)


def collate(rows: list[Row]) -> dict[str, torch.Tensor]:
    """The rows one after the other, as tensors."""
    out = {
        name: torch.from_numpy(np.concatenate([np.atleast_1d(row[name]) for row in rows]))
        for name in rows[0]
    }
    out["cu_seqlens"] = torch.from_numpy(np.cumsum([0, *(len(row["loss"]) for row in rows)]))
    return out


def dataloader(
    paths: Sequence[Path], form: ShardFormat, *, batch: int, limit: int, workers: int
) -> DataLoader[dict[str, torch.Tensor]]:
    """Packed batches from workers that stay between epochs."""
    rows = Rows(paths, form, limit)
    return DataLoader(
        rows,
        batch_sampler=Batches(rows.sizes, batch),
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=True,
    )


def packed(batch: dict[str, torch.Tensor], form: ShardFormat) -> Packed:
    """The batch in the loader's form, sharing its memory."""
    arrays = {name: tensor.numpy() for name, tensor in batch.items()}
    return Packed(
        columns={name: arrays[name] for name in form.elements},
        cu_seqlens=arrays["cu_seqlens"].astype(np.int32),
        context_RC=arrays["context"].reshape(-1, form.context_width),
        sequence_S=arrays["number"],
        keys={name: arrays[name] for name in form.keys},
    )
