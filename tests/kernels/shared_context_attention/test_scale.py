# SPDX-License-Identifier: Apache-2.0
"""The factor of the scores means the same to every implementation, whatever its sign, and 0 too."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kernels._native import native as compiled
from kernels.shared_context_attention import (
    SeqlenInfo,
    Tokens,
    dispatch,
    native,
    plain,
    reference,
    shared_context_attention,
    shared_context_attention_lse,
)
from kernels.shared_context_attention.portable import portable
from kernels.shared_context_attention.scale import above_zero
from tests.kernels.shared_context_attention.cases import offsets

LENGTHS, COUNTS, QUERIES = [37, 0, 5, 70], [3, 2, 0, 1], [37, 0, 2, 9]
SCALES = [-0.3, -5.0, 0.0, -0.0, 1e-30, -1e-30, 0.7]
HEAD_DIM = 32
KINDS = ["causal", "prefix", "appended"]

module, why = compiled("shared_context_attention")
needs_native = pytest.mark.skipif(
    module is None, reason=f"{why}; the portable split is covered beside it"
)


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """C++ by instructions that are everywhere; no other test's choice follows from it."""
    monkeypatch.setenv(native.VARIABLE, "avx512_emulated")
    dispatch._choose.cache_clear()
    yield
    dispatch._choose.cache_clear()


FAST = [
    pytest.param(name, kind, scale, marks=[needs_native] if name == "native" else [])
    for name in ("portable", "plain", "native")
    for kind in KINDS
    for scale in SCALES
]
SLOW = [("triton", "causal", -0.3), ("triton", "prefix", 0.0)]
"""The interpreter takes seconds for each."""


def draw(count: int, seed: int, dtype: torch.dtype) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 2, HEAD_DIM, generator=g).to(dtype).requires_grad_() for _ in "qkv"]


def make(kind: str, dtype: torch.dtype) -> tuple[Tokens, Tokens, SeqlenInfo]:
    """A batch that is causal, has prefixes, or asks for the last tokens alone."""
    cu_queries = offsets(QUERIES) if kind == "appended" else None
    info = SeqlenInfo(
        cu_seqlens=offsets(LENGTHS),
        cu_candidates=offsets(COUNTS),
        prefix=torch.zeros(sum(LENGTHS), dtype=torch.int32) if kind == "prefix" else None,
        cu_queries=cu_queries,
    )
    _, k, v = draw(info.num_tokens, 1, dtype)
    q = draw(info.num_queries, 2, dtype)[0]
    return Tokens(q, k, v), Tokens(*draw(info.num_candidates, 3, dtype)), info


def everything(outs: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    weights = [torch.arange(x.numel(), dtype=x.dtype).view_as(x).cos() for x in outs]
    loss = sum(((x * w).sum() for x, w in zip(outs, weights, strict=True)), torch.zeros(()))
    return [*outs, *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize(("name", "kind", "scale"), [*FAST, *SLOW])
def test_values_and_gradients_are_the_references(name: str, kind: str, scale: float) -> None:
    if name == "triton":
        pytest.importorskip("triton", reason="needs Triton: install the extra gpu")
    dtype = torch.float64 if name in ("portable", "plain") else torch.float32
    context, candidates, info = make(kind, dtype)
    leaves = [*context.present, *candidates.present]
    outs = shared_context_attention(
        context, candidates, info, softmax_scale=scale, implementation=name
    )
    got = everything([x for x in outs if x is not None], leaves)
    wide = [x.detach().double().requires_grad_() for x in leaves]
    outs = reference(Tokens(*wide[:3]), Tokens(*wide[3:]), info, softmax_scale=scale)
    want = everything([x for x in outs if x is not None], wide)
    limit = 1e-11 if dtype == torch.float64 else 2e-4
    for mine, other in zip(got, want, strict=True):
        torch.testing.assert_close(mine.double(), other, rtol=limit, atol=limit)


@pytest.mark.parametrize("scale", [-0.3, 0.0])
@pytest.mark.parametrize("name", ["portable", pytest.param("native", marks=needs_native), "triton"])
def test_the_log_sum_exp_has_the_sign_too(name: str, scale: float) -> None:
    if name == "triton":
        pytest.importorskip("triton", reason="needs Triton: install the extra gpu")
    context, candidates, info = make("causal", torch.float32)
    pairs = shared_context_attention_lse(
        context, candidates, info, softmax_scale=scale, implementation=name
    )
    (_, lse), (_, lse_N) = (pair for pair in pairs if pair is not None)
    rows, request = slice(42, 112), slice(5, 6)
    q, k = context.present[0][rows].double(), context.k[rows].double()
    hidden = torch.ones(70, 70).triu(1).bool()
    scores = (torch.einsum("rhd,chd->rhc", q, k) * scale).masked_fill(hidden[:, None], -torch.inf)
    torch.testing.assert_close(lse[rows].double(), scores.logsumexp(-1), rtol=1e-5, atol=1e-5)
    own = candidates.present[0][request].double(), candidates.k[request].double()
    scores = torch.einsum("rhd,chd->rhc", own[0], torch.cat([k, own[1]])) * scale
    torch.testing.assert_close(lse_N[request].double(), scores.logsumexp(-1), rtol=1e-5, atol=1e-5)
    if scale == 0.0:
        seen = torch.arange(1, 71).double().log()[:, None].expand(-1, 2)
        torch.testing.assert_close(lse[rows].double(), seen, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, 3e38, -1e300])
def test_a_factor_that_is_no_finite_number_is_refused_by_everyone(scale: float) -> None:
    context, candidates, info = make("causal", torch.float32)
    refused = pytest.raises(
        ValueError, match=r"softmax_scale is (nan|-?inf|3e\+38|-1e\+300), want a f"
    )
    for name in ("portable", "plain", "native", "triton", None):
        with refused:
            shared_context_attention(
                context, candidates, info, softmax_scale=scale, implementation=name
            )
    for name in ("portable", "native", "triton", None):
        with refused:
            shared_context_attention_lse(
                context, candidates, info, softmax_scale=scale, implementation=name
            )
    for by in (reference, portable):
        with refused:
            by(context, candidates, info, softmax_scale=scale)
    with refused:
        plain.attend(context, candidates, info, scale)


def test_float64_takes_what_float32_does_not() -> None:
    context, candidates, info = make("causal", torch.float64)
    for by in (reference, portable):
        assert all(x.isfinite().all() for x in by(context, candidates, info, softmax_scale=3e38))


def test_queries_take_what_the_scale_may_not_have() -> None:
    q = torch.tensor([2.0, -3.0])
    taken, scale, factor = above_zero(q, 0.25)
    assert taken is q
    assert (scale, factor) == (0.25, 1.0)
    for given, want in ((-0.25, (0.25, -1.0)), (0.0, (1.0, 0.0)), (-0.0, (1.0, 0.0))):
        taken, scale, factor = above_zero(q, given)
        assert (scale, factor) == want
        assert torch.equal(taken, q * want[1])
