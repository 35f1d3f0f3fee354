# SPDX-License-Identifier: Apache-2.0
"""Which program computes which rows, and how large its blocks are. Needs no Triton.

A tile is `block` rows of one sequence, so nothing is padded and a sequence's result does not depend
on the batch. The table of tiles is made on the device, without the host waiting for a length.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


class Blocks(NamedTuple):
    """Sizes of one kernel: rows of its tile, rows it reads at a time, warps, pipeline stages."""

    tile: int
    step: int
    warps: int
    stages: int


HEAD_DIMS = (32, 64, 128)

_HALF = {
    "forward": {32: Blocks(128, 64, 4, 3), 64: Blocks(128, 64, 8, 3), 128: Blocks(128, 64, 8, 2)},
    "queries": {32: Blocks(64, 64, 4, 2), 64: Blocks(128, 64, 8, 2), 128: Blocks(64, 64, 8, 2)},
    "keys": {32: Blocks(64, 64, 4, 2), 64: Blocks(64, 64, 8, 2), 128: Blocks(64, 32, 8, 2)},
}
_FULL = {
    "forward": {32: Blocks(64, 32, 4, 2), 64: Blocks(32, 32, 4, 2), 128: Blocks(32, 32, 8, 1)},
    "queries": {32: Blocks(32, 32, 4, 2), 64: Blocks(32, 32, 4, 2), 128: Blocks(32, 16, 8, 1)},
    "keys": {32: Blocks(32, 32, 4, 2), 64: Blocks(32, 32, 8, 1), 128: Blocks(32, 16, 8, 1)},
}
"""Chosen so that the compiled kernels fit every GPU from 8.0 on (99 KiB of shared memory) and spill
few registers; not tuned on hardware.
"""


def blocks(kernel: str, dtype: torch.dtype, head_dim: int) -> Blocks:
    """Of the kernel "forward", or of the backward's "queries" or "keys"."""
    return (_FULL if dtype == torch.float32 else _HALF)[kernel][head_dim]


def tiles(offsets: Tensor, rows: int, block: int) -> Tensor:
    """int32 `[tiles, 2]`: sequence and first row in it; sequence -1 where there are fewer tiles.

    Kept for all layers as long as the offsets live unchanged; inside a CUDA graph it is made anew,
    so that a replay follows what lies in the offsets then.

    Args:
        offsets: int32 `[S + 1]`, of `rows` rows in all.
        rows: as the host knows it, from a shape.
        block: rows a tile.
    """
    if offsets.is_cuda and torch.cuda.is_current_stream_capturing():
        return _tiles(offsets, rows, block)
    key = (rows, block, offsets._version)
    known = _known.setdefault(offsets, {})
    if key not in known:
        known[key] = _tiles(offsets, rows, block)
    return known[key]


_known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _tiles(offsets: Tensor, rows: int, block: int) -> Tensor:
    most = (rows + (len(offsets) - 1) * (block - 1)) // block
    count_S = (offsets.diff() + block - 1) // block
    end_S = count_S.cumsum(0, dtype=torch.int32)
    tile_T = torch.arange(most, dtype=torch.int32, device=offsets.device)
    sequence_T = torch.searchsorted(end_S, tile_T, right=True, out_int32=True)
    begin_T = (end_S - count_S)[sequence_T.clamp(max=len(count_S) - 1)]
    sequence_T = sequence_T.where(sequence_T < len(count_S), -1)
    return torch.stack([sequence_T, (tile_T - begin_T) * block], dim=1)
