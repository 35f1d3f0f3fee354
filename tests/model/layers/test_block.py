# SPDX-License-Identifier: Apache-2.0
"""A block is pre-LayerNorm with rescaled residuals, and its short forms equal its whole one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kernels.shared_context_attention import SeqlenInfo
from model import FeedSRConfig
from model.layers.block import MLP, Block
from model.layers.layer import Placement
from model.layers.rope import Rotation
from tests.builders import offsets_of
from tests.model.patterned import patterned


def make_block(mlp: str = "gelu", **parts: object) -> Block:
    torch.manual_seed(0)
    shape = {"width": 8, "heads": 2, "mlp": mlp, "mlp_ratio": 3.0, "residual_scale": 0.7}
    return Block(FeedSRConfig.model_validate({**shape, **parts})).double()


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


def test_rezero_starts_as_the_identity() -> None:
    block, placement = make_block(residual="rezero"), make_placement()
    context, candidates = make_states()
    for before, after in zip(
        (context, candidates), block(context, candidates, placement), strict=True
    ):
        assert torch.equal(after, before)


def test_post_norm_normalises_the_sums_and_reads_the_stream_raw() -> None:
    block, placement = make_block(norm="post"), make_placement()
    context, _ = make_states()
    after, _ = block(context, None, placement)
    torch.testing.assert_close(after.mean(-1), torch.zeros(10, dtype=torch.float64))
    assert ((after.var(-1, correction=0) - 1).abs() < 1e-4).all()
    inner = block.attention_norm(context + 0.7 * attention_branch(block, context, placement))
    want = block.mlp_norm(inner + 0.7 * block.mlp(inner))
    torch.testing.assert_close(after, want, rtol=1e-6, atol=1e-6)


def attention_branch(block: Block, x_TD: Tensor, placement: Placement) -> Tensor:
    """The attention of raw tokens, ungated."""
    tokens = block.attention.project(x_TD, placement.context)
    seen, _ = block.attend(tokens, None, placement.info)
    assert seen is not None
    return block.attention.join(seen)


def test_a_gate_opens_and_closes_each_channel_by_its_token() -> None:
    block, placement = make_block(attention_gate=True), make_placement()
    context, candidates = make_states()
    gate = block.attention.gate
    assert gate is not None
    open_, closed = make_block(), make_block()
    shared = {n: p for n, p in block.state_dict().items() if "gate" not in n}
    open_.load_state_dict(shared)
    closed.load_state_dict(shared)
    with torch.no_grad():
        closed.attention_add.scale.zero_()
        gate.weight.zero_()
        for bias, like in ((50.0, open_), (-50.0, closed)):
            gate.bias.fill_(bias)
            got = block(context.clone(), candidates.clone(), placement)
            want = like(context.clone(), candidates.clone(), placement)
            for ours, theirs in zip(got, want, strict=True):
                torch.testing.assert_close(ours, theirs)
        gate.bias.zero_()
        gate.weight.copy_(torch.eye(8))
    norm = block.attention_norm(context)
    tokens, share = block.project(context, placement.context)
    assert share is not None
    torch.testing.assert_close(share, norm.sigmoid())
    heads = torch.ones_like(tokens.v)
    torch.testing.assert_close(
        block.attention.join(heads, share), norm.sigmoid() @ block.attention.out.weight.T
    )


@pytest.mark.parametrize("gradients", [True, False])
def test_an_mlp_is_its_formula(gradients: bool) -> None:
    """One channel in and out, by hand: GELU by the error function, SwiGLU's gate first."""
    x = 0.75
    plain, gated = (patterned(MLP(1, 3.0, kind)) for kind in ("gelu", "swiglu"))
    assert (plain.hidden, gated.hidden) == (3, 2)

    def hidden(mlp: MLP) -> list[float]:
        weights = zip(mlp.up.weight[:, 0].tolist(), mlp.up.bias.tolist(), strict=True)
        return [weight * x + bias for weight, bias in weights]

    def out(mlp: MLP, activated: list[float]) -> float:
        down = zip(mlp.down.weight[0].tolist(), activated, strict=True)
        return sum(weight * value for weight, value in down) + mlp.down.bias.item()

    gelu = [h * (1 + math.erf(h / math.sqrt(2))) / 2 for h in hidden(plain)]
    gate, value = hidden(gated)[:2], hidden(gated)[2:]
    swiglu = [g / (1 + math.exp(-g)) * v for g, v in zip(gate, value, strict=True)]
    rows = torch.tensor([[x]], dtype=torch.float64)
    with torch.set_grad_enabled(gradients):
        assert plain(rows).item() == pytest.approx(out(plain, gelu), rel=1e-12)
        assert gated(rows).item() == pytest.approx(out(gated, swiglu), rel=1e-12)
    assert rows.item() == x
