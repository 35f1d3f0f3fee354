# SPDX-License-Identifier: Apache-2.0
"""Batches for Triton's tests, the same maths in plain PyTorch, and the bars of their errors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kernels.shared_context_attention import SeqlenInfo, Tokens, shared_context_attention_lse
from kernels.shared_context_attention.reference import candidate_mask, context_mask
from tests.kernels.shared_context_attention.cases import biggest_error, offsets, random_prefix

HAS_GPU = torch.cuda.is_available()
NEEDS_GPU = "needs a GPU; covered by the interpreter, and by the compiler for sm_80 and sm_90"


def make(
    lengths: list[int],
    counts: list[int],
    head_dim: int = 32,
    *,
    prefix: bool = True,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    group: int = 2,
    seed: int = 0,
) -> tuple[Tokens, Tokens, SeqlenInfo]:
    """A packed batch of normal inputs."""
    g = torch.Generator().manual_seed(seed)

    def tokens(n: int) -> Tokens:
        qkv = (torch.randn(n, 2, head_dim, generator=g) for _ in "qkv")
        return Tokens(*(x.to(device, dtype).requires_grad_() for x in qkv))

    info = SeqlenInfo(
        cu_seqlens=offsets(lengths).to(device),
        cu_candidates=offsets(counts).to(device),
        prefix=random_prefix(lengths, group, g).to(device) if prefix else None,
        group=group,
    )
    return tokens(sum(lengths)), tokens(sum(counts)), info


def attention(context: Tokens, candidates: Tokens | None, info: SeqlenInfo) -> list[Tensor]:
    """Outputs and log-sum-exps that are there, by Triton."""
    pairs = shared_context_attention_lse(context, candidates, info, implementation="triton")
    return [x for pair in pairs if pair is not None for x in pair]


def dense(context: Tokens, candidates: Tokens | None, info: SeqlenInfo) -> list[Tensor]:
    """The same by the masks of the specification, in the dtype of the inputs."""
    parts: list[tuple[Tensor, Tensor]] = []
    for s, (rows, queries) in enumerate(zip(info.sequences, info.queries, strict=True)):
        if context.q is not None:
            kv = context.k[rows], context.v[rows]
            parts.append(softmax(context.q[queries], *kv, context_mask(info, s)))
    outs = [torch.cat(x) for x in zip(*parts, strict=True)]
    if candidates is None:
        return outs
    parts = []
    for rows, wanted in zip(info.sequences, info.requests, strict=True):
        k, v = (
            torch.cat([x[rows], y[wanted]])
            for x, y in zip((context.k, context.v), (candidates.k, candidates.v), strict=True)
        )
        mask = candidate_mask(rows.stop - rows.start, wanted.stop - wanted.start, k.device)
        parts.append(softmax(candidates.q[wanted], k, v, mask))
    return outs + [torch.cat(x) for x in zip(*parts, strict=True)]


def softmax(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp under a mask."""
    scores = torch.einsum("rhd,chd->rhc", q, k) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~mask[:, None], -torch.inf)
    return torch.einsum("rhc,chd->rhd", scores.softmax(-1), v), scores.logsumexp(-1)


def leaves(case: tuple[Tokens, Tokens | None, SeqlenInfo]) -> list[Tensor]:
    """What is differentiated by."""
    return [x for tokens in case[:2] if tokens is not None for x in tokens.present]


def wide(case: tuple[Tokens, Tokens, SeqlenInfo]) -> tuple[Tokens, Tokens, SeqlenInfo]:
    """The same numbers in float64, as new leaves."""

    def copy(tokens: Tokens) -> Tokens:
        return Tokens(*(x.detach().double().requires_grad_() for x in tokens.present))

    return copy(case[0]), copy(case[1]), case[2]


def everything(by: Callable[..., list[Tensor]], case: tuple[Tokens, Tokens, SeqlenInfo]):  # type: ignore[no-untyped-def]
    """Outputs, log-sum-exps, and the gradients of a sum in which each element counts otherwise."""
    outs = by(*case)
    weights = [torch.arange(x.numel(), device=x.device).view_as(x).cos() for x in outs]
    loss = sum((x.double() * w).sum() for x, w in zip(outs, weights, strict=True))
    return [*outs, *torch.autograd.grad(loss, leaves(case))]


def assert_errs_like(case: tuple[Tokens, Tokens, SeqlenInfo], factor: float = 2.0) -> None:
    """No more than `factor` times the error of the same maths in plain PyTorch."""
    exact = everything(dense, wide(case))
    ours, theirs = (biggest_error(everything(by, case), exact) for by in (attention, dense))
    floor = 8 * torch.finfo(case[0].k.dtype).eps
    assert all(a <= factor * b + floor for a, b in zip(ours, theirs, strict=True)), (ours, theirs)


def assert_same(got: Tensor, want: Tensor, case: tuple[Tokens, Tokens, SeqlenInfo]) -> None:
    """Rows of the outputs of `case`, computed among other rows: the same bits on a GPU.

    The interpreter's products are NumPy's, where the last bit of a row follows its place among the
    others, by processor: there each is off by the law's error, so they are apart by two of it.
    """
    if got.is_cuda:
        assert torch.equal(got, want)
        return
    with torch.no_grad():
        theirs = max(biggest_error(dense(*case), dense(*wide(case))))
    limit = 2 * (2 * theirs + 8 * torch.finfo(got.dtype).eps)
    torch.testing.assert_close(got, want, rtol=0, atol=limit)
