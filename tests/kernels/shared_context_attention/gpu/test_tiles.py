# SPDX-License-Identifier: Apache-2.0
"""The table of tiles has every row once, follows its offsets, and is made once for all layers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.shared_context_attention.gpu.tiles import HEAD_DIMS, blocks, tiles
from tests.kernels.shared_context_attention.cases import offsets


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(0, 20), max_size=6), block=st.sampled_from([1, 4, 16]))
def test_tiles_cover_every_row_once(lengths: list[int], block: int) -> None:
    cu = offsets(lengths)
    want = [[s, row] for s, n in enumerate(lengths) for row in range(0, n, block)]
    table = tiles(cu, sum(lengths), block)
    assert [pair for pair in table.tolist() if pair[0] >= 0] == want
    assert tiles(cu, sum(lengths), block) is table


def test_tiles_follow_offsets_that_change() -> None:
    cu = offsets([4, 0])
    assert tiles(cu, 4, 4)[0].tolist() == [0, 0]
    cu.copy_(offsets([0, 4]))
    assert tiles(cu, 4, 4)[0].tolist() == [1, 0]


@pytest.mark.parametrize("kernel", ["forward", "queries", "keys"])
def test_a_tile_is_whole_steps(kernel: str) -> None:
    """What is read at a time divides the tile, in powers of two as Triton wants them."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for head_dim in HEAD_DIMS:
            sizes = blocks(kernel, dtype, head_dim)
            assert sizes.tile % sizes.step == 0
            assert all(size & (size - 1) == 0 for size in sizes[:3])
    assert blocks(kernel, torch.bfloat16, 64) == blocks(kernel, torch.float16, 64)
