# SPDX-License-Identifier: Apache-2.0
"""HSTU against its equations, ours and as published; its short forms are its whole one."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from kernels.shared_context_attention import SeqlenInfo
from model import FeedSRConfig, build_ranker
from model.config import BlockName, NormName
from model.feed_sr import FeedSR
from model.layers.hstu import HSTU
from model.layers.layer import Placement
from model.layers.rope import unrotated
from tests.builders import TINY, offsets_of
from tests.model.patterned import numbers

TOKENS, CANDIDATES, WIDTH, HEADS = 8, 3, 8, 2
LONGEST = 2128
every_block = pytest.mark.parametrize("block", ["hstu", "hstu_published"])


def make_hstu(norm: NormName = "pre", block: BlockName = "hstu") -> HSTU:
    torch.manual_seed(0)
    config = FeedSRConfig(width=WIDTH, heads=HEADS, block=block, norm=norm, residual_scale=0.7)
    layer = HSTU(config, LONGEST).double()
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
    """With a mean over the keys, and scores scaled: the block "hstu"."""
    layer = make_hstu(norm)
    context, candidates = make_states()
    rows = TOKENS + CANDIDATES
    seen = torch.tril(torch.ones(rows, rows, dtype=torch.float64))
    seen[TOKENS:, TOKENS:] = torch.eye(CANDIDATES)
    want = by_the_paper(layer, torch.cat([context, candidates]), seen, norm)
    got = layer(context, candidates, make_placement())
    torch.testing.assert_close(torch.cat(got), want, rtol=1e-10, atol=1e-10)


def plain_norm(x: Tensor, epsilon: float) -> Tensor:
    variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(variance + epsilon)


def as_published(x: Tensor, seen: Tensor, weights: dict[str, Tensor], longest: int) -> Tensor:
    """What the authors' layer computes of one sequence with its causal mask.

    It has no gain and no bias in the norms, one matrix for U, V, Q, K, scores as they are, the sum
    over the keys divided by the length that sequences are padded to, and the sum of stream and
    branch.
    """
    u, v, q, k = silu(plain_norm(x, 1e-6) @ weights["uvqk"]).split(WIDTH, 1)
    heads = []
    for queries, keys, values in zip(
        q.chunk(HEADS, 1), k.chunk(HEADS, 1), v.chunk(HEADS, 1), strict=True
    ):
        heads.append((silu(queries @ keys.T) / longest * seen) @ values)
    gated = u * plain_norm(torch.cat(heads, 1), 1e-6)
    return gated @ weights["o"].T + weights["o_bias"] + x


def published_layer(longest: int) -> tuple[HSTU, dict[str, Tensor]]:
    """A layer with the authors' start, and the same weights by their names."""
    config = FeedSRConfig(width=WIDTH, heads=HEADS, block="hstu_published")
    layer = HSTU(config, longest).double()
    uvqk, o = numbers(WIDTH, 4 * WIDTH), numbers(WIDTH, WIDTH, start=900)
    u, v, q, k = uvqk.T.split(WIDTH)
    with torch.no_grad():
        layer.gate_query.weight.copy_(torch.cat([u, q]))
        layer.key_value.weight.copy_(torch.cat([k, v]))
        layer.out.weight.copy_(o)
        layer.out.bias.copy_(numbers(WIDTH, start=2000))
    return layer, {"uvqk": uvqk, "o": o, "o_bias": layer.out.bias.detach()}


@pytest.mark.parametrize("longest", [8, 2128])
def test_the_published_block_is_the_authors_layer(longest: int) -> None:
    layer, weights = published_layer(longest)
    context, candidates = make_states()
    seen = torch.tril(torch.ones(TOKENS + 1, TOKENS + 1, dtype=torch.float64))
    whole, whole_N = layer(context, candidates, make_placement())
    for n in range(CANDIDATES):  # each is the last token of a sequence of its own
        sequence = torch.cat([context, candidates[n : n + 1]])
        want = as_published(sequence, seen, weights, longest)
        got = torch.cat([whole, whole_N[n : n + 1]])
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_what_few_keys_add_up_to_fades_by_the_published_divisor_and_epsilon() -> None:
    """Attended values of a millionth, against an epsilon of a millionth and one of ten."""
    attended = torch.tensor([[1e-3, -1e-3, 3e-3, -3e-3, 1e-3, -1e-3, 3e-3, -3e-3]]).double()
    for block, epsilon in (("hstu", 1e-5), ("hstu_published", 1e-6)):
        layer = HSTU(FeedSRConfig(width=WIDTH, heads=HEADS, block=block), LONGEST).double()  # type: ignore[arg-type]
        want = attended / (5e-6 + epsilon) ** 0.5
        torch.testing.assert_close(layer.attended_norm(attended), want)
        torch.testing.assert_close(layer.norm(attended), want)


@pytest.mark.parametrize(("max_impressions", "block", "longest"), [(1000, 64, 2128), (10, 2, 24)])
def test_the_longest_context_is_that_of_a_window(
    max_impressions: int, block: int, longest: int
) -> None:
    """Two tokens an impression, and no batch's own length: a score knows no neighbours."""
    spec = dataclasses.replace(TINY, max_impressions=max_impressions, block=block)
    ranker = build_ranker(FeedSRConfig(width=8, block="hstu_published"), spec).double()
    assert isinstance(ranker, FeedSR)
    context, _ = make_states()
    layer, placement = ranker.layers[1], make_placement()
    tokens, _ = layer.project(context, unrotated)
    got, _ = layer.attend(tokens, None, placement.info)
    assert tokens.q is not None
    assert got is not None
    first = silu((tokens.q[0] * tokens.k[0]).sum(-1, keepdim=True)) * tokens.v[0] / longest
    torch.testing.assert_close(got[0], first)


@every_block
def test_the_last_layers_forms_equal_the_whole_layer(block: BlockName) -> None:
    layer, placement = make_hstu(block=block), make_placement()
    context, candidates = make_states()
    whole, whole_N = layer(context, candidates, placement)
    rows = torch.tensor([6, 2, 2])
    torch.testing.assert_close(layer.forward_rows(context, rows, placement), whole[rows])
    alone = layer.forward_candidates(context, candidates, placement)
    torch.testing.assert_close(alone, whole_N)


@every_block
def test_without_gradients_it_gives_the_same(block: BlockName) -> None:
    layer, placement = make_hstu(block=block), make_placement()
    want = layer(*make_states(), placement)
    with torch.no_grad():
        got = layer(*make_states(), placement)
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs)
