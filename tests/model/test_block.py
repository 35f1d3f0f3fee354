# SPDX-License-Identifier: Apache-2.0
"""A block is pre-LayerNorm with rescaled residuals, and its short forms equal its whole one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.shared_context_attention import SeqlenInfo
from model import FeedSRConfig
from model.block import Block
from model.layer import Placement
from model.rope import Rotation
from tests.builders import offsets_of


def make_block(mlp: str = "gelu") -> Block:
    torch.manual_seed(0)
    config = FeedSRConfig(width=8, heads=2, mlp=mlp, mlp_ratio=3.0, residual_scale=0.7)  # type: ignore[arg-type]
    return Block(config).double()


def make_placement() -> Placement:
    info = SeqlenInfo(cu_seqlens=offsets_of([6, 4]), cu_candidates=offsets_of([2, 3]))

    def at(positions: list[int]) -> Rotation:
        return Rotation.at(torch.tensor(positions), 4, 10_000.0, torch.float64)

    context = at([0, 1, 2, 3, 4, 5, 0, 1, 2, 3])
    return Placement(info=info, context=context, candidates=at([6, 6, 4, 4, 4]))


def make_states() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(10, 8, generator=generator, dtype=torch.float64),
        torch.randn(5, 8, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_the_last_layers_forms_equal_the_whole_block(mlp: str) -> None:
    block, placement = make_block(mlp), make_placement()
    context, candidates = make_states()
    whole, whole_N = block(context, candidates, placement)
    rows = torch.tensor([8, 2, 2])
    torch.testing.assert_close(block.forward_rows(context, rows, placement), whole[rows])
    alone = block.forward_candidates(context, candidates, placement)
    torch.testing.assert_close(alone, whole_N)


def test_branches_see_normalised_input_and_the_stream_stays_raw() -> None:
    """Pre-LayerNorm: scaling the input scales the stream, and leaves the branch as it is."""
    block, placement = make_block(), make_placement()
    context, _ = make_states()
    with torch.no_grad():
        block.mlp_add.scale.zero_()
        small, _ = block(context.clone(), None, placement)
        large, _ = block(1000 * context, None, placement)
    torch.testing.assert_close(large - 1000 * context, small - context, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_without_gradients_the_stream_is_updated_in_place_to_the_same_values(mlp: str) -> None:
    block, placement = make_block(mlp), make_placement()
    context, candidates = make_states()
    want = block(context, candidates, placement)
    with torch.no_grad():
        got = block(context, candidates, placement)
    for stream, after, expected in zip((context, candidates), got, want, strict=True):
        torch.testing.assert_close(after, expected)
        assert after.data_ptr() == stream.data_ptr()


def test_residuals_are_rescaled() -> None:
    block, placement = make_block(), make_placement()
    context, _ = make_states()
    with torch.no_grad():
        block.attention_add.scale.zero_()
        block.mlp_add.scale.zero_()
    assert torch.equal(block(context, None, placement)[0], context)
