# SPDX-License-Identifier: Apache-2.0
"""Pointwise attention against its sentence, key by key; its gradient, and its memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.shared_context_attention import SeqlenInfo, Tokens
from kernels.shared_context_attention.seqlens import TILE_ROWS
from model.layers.pointwise_attention import Activation, attention_by, pointwise_attention
from tests.builders import Pattern, make_known, offsets_of

HEADS, HEAD_DIM = 2, 4
WRITTEN_OUT: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "relu": lambda x: torch.where(x > 0, x, 0.0),
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
}
every_activation = pytest.mark.parametrize("activation", WRITTEN_OUT)
Batch = tuple[Tokens, Tokens, SeqlenInfo]


def make_tokens(count: int, generator: torch.Generator) -> Tokens:
    shape = (3, count, HEADS, HEAD_DIM)
    return Tokens(*torch.randn(shape, generator=generator, dtype=torch.float64).unbind())


def make_batch(
    seed: int, lengths: list[int], counts: list[int], pattern: Pattern, cached: list[int]
) -> Batch:
    """Impressions and candidates of each request; of the first `cached` impressions, K and V."""
    generator = torch.Generator().manual_seed(seed)
    known = [make_known(n, pattern, generator)[c:] for n, c in zip(lengths, cached, strict=True)]
    new = [2 * (n - c) for n, c in zip(lengths, cached, strict=True)]
    info = SeqlenInfo(
        cu_seqlens=offsets_of([2 * n for n in lengths]),
        cu_candidates=offsets_of(counts),
        prefix=torch.cat([2 * k.repeat_interleave(2) for k in known]),
        cu_queries=offsets_of(new) if any(cached) else None,
    )
    context = make_tokens(2 * sum(lengths), generator)
    assert context.q is not None
    context = Tokens(context.q[: sum(new)].contiguous(), context.k, context.v)
    return context, make_tokens(sum(counts), generator), info


def dense(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, activation: Activation) -> Tensor:
    """`[R, H, D]` of one sequence under bool `seen [R, C]`."""
    scores = torch.einsum("rhd,chd->hrc", q, k) / math.sqrt(q.shape[-1])
    weights = WRITTEN_OUT[activation](scores) * seen / seen.sum(-1, keepdim=True)
    return torch.einsum("hrc,chd->rhd", weights, v)


def visible(info: SeqlenInfo, sequence: int) -> Tensor:
    """The page, token by token: the known prefix, and the own impression's tokens up to itself."""
    tokens, rows = info.sequences[sequence], info.queries[sequence]
    length, count = tokens.stop - tokens.start, rows.stop - rows.start
    assert info.prefix is not None
    prefix = info.prefix[rows].tolist()
    asking = range(length - count, length)
    return torch.tensor(
        [
            [c < p or i // 2 * 2 <= c <= i for c in range(length)]
            for i, p in zip(asking, prefix, strict=True)
        ],
        dtype=torch.bool,
    ).reshape(count, length)


def by_the_page(batch: Batch, activation: Activation) -> tuple[Tensor, Tensor]:
    context, candidates, info = batch
    assert context.q is not None
    assert candidates.q is not None
    out, out_N = [], []
    for s, (tokens, rows) in enumerate(zip(info.sequences, info.requests, strict=True)):
        k, v = context.k[tokens], context.v[tokens]
        out.append(dense(context.q[info.queries[s]], k, v, visible(info, s), activation))
        for n in range(rows.start, rows.stop):
            k_own = torch.cat([k, candidates.k[n : n + 1]])
            v_own = torch.cat([v, candidates.v[n : n + 1]])
            all_seen = torch.ones(1, len(k_own), dtype=torch.bool)
            out_N.append(dense(candidates.q[n : n + 1], k_own, v_own, all_seen, activation))
    return torch.cat(out), torch.cat([candidates.q[:0], *out_N])


def attend(batch: Batch, activation: Activation) -> tuple[Tensor, Tensor]:
    out, out_N = pointwise_attention(*batch, activation=activation)
    assert out is not None
    assert out_N is not None
    return out, out_N


@pytest.mark.law
@every_activation
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    shapes=st.lists(
        st.tuples(st.integers(0, 7), st.integers(0, 4), st.floats(0, 1)), min_size=1, max_size=3
    ),
    pattern=st.sampled_from(["causal", "day"]),
)
def test_it_is_what_the_page_says(
    activation: Activation, seed: int, shapes: list[tuple[int, int, float]], pattern: Pattern
) -> None:
    lengths, counts = [s[0] for s in shapes], [s[1] for s in shapes]
    batch = make_batch(seed, lengths, counts, pattern, [round(x * n) for n, _, x in shapes])
    for got, want in zip(attend(batch, activation), by_the_page(batch, activation), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@every_activation
@pytest.mark.parametrize("pattern", ["causal", "day"])
def test_many_tiles_and_their_gradient(activation: Activation, pattern: Pattern) -> None:
    """More rows than a tile has, in context and candidates, forward and backward."""
    batch = make_batch(0, [TILE_ROWS + 9, 3], [TILE_ROWS + 5, 2], pattern, [0, 0])
    leaves = [x for tokens in batch[:2] for x in tokens.present]
    for x in leaves:
        x.requires_grad_()
    got, want = attend(batch, activation), by_the_page(batch, activation)
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in want]
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    pairs = (torch.autograd.grad(outs, leaves, grads) for outs in (got, want))
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


@every_activation
def test_gradcheck(activation: Activation) -> None:
    context, candidates, info = make_batch(3, [3, 0, 2], [2, 1, 0], "day", [1, 0, 0])
    leaves = [x.requires_grad_() for x in (*context.present, *candidates.present)]

    def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return attend((Tokens(*tensors[:3]), Tokens(*tensors[3:]), info), activation)

    assert torch.autograd.gradcheck(function, leaves)


@every_activation
def test_no_scores_are_kept_for_the_backward(activation: Activation) -> None:
    """What autograd keeps grows with the tokens, not with their square."""

    def kept(impressions: int) -> int:
        sizes: list[int] = []

        def pack(x: Tensor) -> Tensor:
            sizes.append(x.numel())
            return x

        batch = make_batch(0, [impressions], [impressions], "day", [0])
        for x in (*batch[0].present, *batch[1].present):
            x.requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            attend(batch, activation)
        return sum(sizes)

    assert kept(200) == pytest.approx(2 * kept(100), rel=0.05)


@every_activation
def test_low_precision_costs_what_the_dtype_costs(activation: Activation) -> None:
    """Twice the error that the same math has in bfloat16, written densely."""
    context, candidates, info = make_batch(0, [40, 7], [5, 3], "day", [0, 0])
    low = tuple(Tokens(*(x.bfloat16() for x in t.present)) for t in (context, candidates))
    exact = by_the_page((context, candidates, info), activation)
    rounded = by_the_page((*low, info), activation)  # type: ignore[arg-type]
    for got, same, want in zip(
        attend((*low, info), activation),  # type: ignore[arg-type]
        rounded,
        exact,
        strict=True,
    ):
        assert got.dtype == torch.bfloat16
        assert (got - want).abs().max() <= 2 * (same - want).abs().max()


@every_activation
def test_a_divisor_is_every_rows_own(activation: Activation) -> None:
    """One context of 2, and a candidate over it and itself; whatever each sees, over seven."""
    context, candidates, info = make_batch(4, [1], [1], "causal", [0])
    got = pointwise_attention(
        context, candidates, info, activation=activation, softmax_scale=0.5, divisor=7
    )
    written, (q, k, v) = WRITTEN_OUT[activation], context.present
    q_N, k_N, v_N = candidates.present

    def weighted(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return written(0.5 * (query * key).sum(-1, keepdim=True)) * value / 7

    want = torch.stack(
        [weighted(q[0], k[0], v[0]), weighted(q[1], k[0], v[0]) + weighted(q[1], k[1], v[1])]
    )
    own = weighted(q_N[0], k[0], v[0]) + weighted(q_N[0], k[1], v[1])
    own = own + weighted(q_N[0], k_N[0], v_N[0])
    assert got[0] is not None
    assert got[1] is not None
    torch.testing.assert_close(got[0], want)
    torch.testing.assert_close(got[1], own[None])


@every_activation
def test_gradcheck_of_a_scale_and_a_divisor(activation: Activation) -> None:
    context, candidates, info = make_batch(3, [3, 0, 2], [2, 1, 0], "day", [1, 0, 0])
    leaves = [x.requires_grad_() for x in (*context.present, *candidates.present)]

    def function(*tensors: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return pointwise_attention(
            Tokens(*tensors[:3]),
            Tokens(*tensors[3:]),
            info,
            activation=activation,
            softmax_scale=-0.7,
            divisor=5,
        )

    assert torch.autograd.gradcheck(function, leaves)


def test_nobody_asks_and_nobody_ranks() -> None:
    context, candidates, info = make_batch(0, [4], [2], "causal", [0])
    silent = Tokens(None, context.k, context.v)
    out, out_N = pointwise_attention(silent, candidates, info, activation="silu")
    assert out is None
    assert out_N is not None
    torch.testing.assert_close(out_N, attend((context, candidates, info), "silu")[1])
    assert pointwise_attention(context, None, info, activation="silu")[1] is None


@pytest.mark.parametrize("name", ["softmax", "silu", "relu", "sigmoid"])
def test_a_name_is_an_attention_of_its_own(name: str) -> None:
    batch = make_batch(0, [4], [2], "causal", [0])
    others = [n for n in ("softmax", "silu", "relu", "sigmoid") if n != name]
    mine, *theirs = (attention_by(n)(*batch)[0] for n in (name, *others))  # type: ignore[arg-type]
    assert mine is not None
    assert not any(torch.allclose(mine, x) for x in theirs if x is not None)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_a_scale_that_is_no_finite_number_is_refused(scale: float) -> None:
    info = SeqlenInfo(cu_seqlens=offsets_of([4]))
    tokens = Tokens(*(torch.zeros(4, 1, 4) for _ in range(3)))
    with pytest.raises(ValueError, match=f"softmax_scale is {scale}, want a finite number"):
        pointwise_attention(tokens, None, info, activation="silu", softmax_scale=scale)
