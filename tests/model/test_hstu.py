# SPDX-License-Identifier: Apache-2.0
"""HSTU against its equations, written out densely; its short forms are its whole one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kernels.shared_context_attention import SeqlenInfo
from model import FeedSRConfig
from model.config import NormName
from model.hstu import HSTU
from model.layer import Placement
from model.rope import unrotated
from tests.builders import offsets_of

TOKENS, CANDIDATES, WIDTH, HEADS = 8, 3, 8, 2


def make_hstu(norm: NormName = "pre") -> HSTU:
    torch.manual_seed(0)
    config = FeedSRConfig(width=WIDTH, heads=HEADS, block="hstu", norm=norm, residual_scale=0.7)
    layer = HSTU(config).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def make_placement() -> Placement:
    info = SeqlenInfo(cu_seqlens=offsets_of([TOKENS]), cu_candidates=offsets_of([CANDIDATES]))
    return Placement(info=info, context=unrotated, candidates=unrotated)


def make_states() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(TOKENS + CANDIDATES, WIDTH, generator=generator, dtype=torch.float64)
    return rows[:TOKENS], rows[TOKENS:]


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def normalised(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + (
        norm.bias
    )


def by_the_paper(layer: HSTU, x: Tensor, seen: Tensor, norm: NormName) -> Tensor:
    """Equations 1 to 3 of section 3, U, Q, K, V from one matrix; rows see the keys of `seen`."""
    fused = torch.cat([layer.gate_query.weight, layer.key_value.weight])
    inner = normalised(x, layer.norm) if norm == "pre" else x
    u, q, k, v = silu(inner @ fused.T).chunk(4, -1)
    attended = []
    for h in range(HEADS):
        part = slice(h * WIDTH // HEADS, (h + 1) * WIDTH // HEADS)
        scores = silu(q[:, part] @ k[:, part].T / math.sqrt(WIDTH // HEADS)) * seen
        attended.append(scores / seen.sum(-1, keepdim=True) @ v[:, part])
    gated = normalised(torch.cat(attended, -1), layer.attended_norm) * u
    total = x + layer.add.scale * (gated @ layer.out.weight.T + layer.out.bias)
    return total if norm == "pre" else normalised(total, layer.norm)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_layer_is_the_papers_equations(norm: NormName) -> None:
    layer = make_hstu(norm)
    context, candidates = make_states()
    rows = TOKENS + CANDIDATES
    seen = torch.tril(torch.ones(rows, rows, dtype=torch.float64))
    seen[TOKENS:, TOKENS:] = torch.eye(CANDIDATES)
    want = by_the_paper(layer, torch.cat([context, candidates]), seen, norm)
    got = layer(context, candidates, make_placement())
    torch.testing.assert_close(torch.cat(got), want, rtol=1e-10, atol=1e-10)


def test_the_last_layers_forms_equal_the_whole_layer() -> None:
    layer, placement = make_hstu(), make_placement()
    context, candidates = make_states()
    whole, whole_N = layer(context, candidates, placement)
    rows = torch.tensor([6, 2, 2])
    torch.testing.assert_close(layer.forward_rows(context, rows, placement), whole[rows])
    alone = layer.forward_candidates(context, candidates, placement)
    torch.testing.assert_close(alone, whole_N)


def test_without_gradients_it_gives_the_same() -> None:
    layer, placement = make_hstu(), make_placement()
    want = layer(*make_states(), placement)
    with torch.no_grad():
        got = layer(*make_states(), placement)
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs)
