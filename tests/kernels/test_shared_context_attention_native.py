# SPDX-License-Identifier: Apache-2.0
"""The C++ kernel against the specification in float64, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.shared_context_attention import SeqlenInfo, Tokens, native, ops, reference
from kernels.shared_context_attention import shared_context_attention as attention
from tests.kernels.test_shared_context_attention import biggest_error, offsets, random_prefix

usable, why = native.available("cpu", torch.float32, 64)
pytestmark = pytest.mark.skipif(not usable, reason=why)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(
    lengths: list[int], counts: list[int], head_dim: int, prefix: bool = False, seed: int = 0
) -> tuple[Tokens, Tokens, SeqlenInfo]:
    g = torch.Generator().manual_seed(seed)

    def tokens(n: int) -> Tokens:
        return Tokens(*(torch.randn(n, 2, head_dim, generator=g) for _ in "qkv"))

    info = SeqlenInfo(
        cu_seqlens=offsets(lengths),
        cu_candidates=offsets(counts),
        prefix=random_prefix(lengths, 2, g) if prefix else None,
    )
    return tokens(sum(lengths)), tokens(sum(counts)), info


def exactly(context: Tokens, candidates: Tokens, info: SeqlenInfo) -> tuple[Tensor, Tensor]:
    wide = [Tokens(*(x.double() for x in t.present)) for t in (context, candidates)]
    return reference(*wide, info, softmax_scale=context.k.shape[-1] ** -0.5)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 300), min_size=1, max_size=4),
    counts=st.lists(st.integers(0, 60), min_size=4, max_size=4),
    head_dim=st.sampled_from([16, 32, 48, 64, 128]),
    prefix=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_ragged_batch_errs_no_more_than_twice_the_same_maths(  # type: ignore[no-untyped-def]
    lengths, counts, head_dim, prefix, seed
) -> None:
    case = make(lengths, counts[: len(lengths)], head_dim, prefix, seed)
    exact = exactly(*case)
    got = attention(*case, implementation="native")
    theirs = biggest_error(reference(*case, softmax_scale=head_dim**-0.5), exact)
    floor = 16 * torch.finfo(torch.float32).eps
    ours = biggest_error(got, exact)
    assert all(a <= 2 * b + floor for a, b in zip(ours, theirs, strict=True)), (ours, theirs)


def test_scores_of_great_spread_and_hidden_keys() -> None:
    """Scores that under- or overflow a plain exp, and prefixes that hide whole blocks of keys."""
    context, candidates, _ = make([700], [5], 64)
    prefix = torch.zeros(700, dtype=torch.int32)
    prefix[400:] = 130
    info = SeqlenInfo(cu_seqlens=offsets([700]), cu_candidates=offsets([5]), prefix=prefix)
    loud = Tokens(context.q * 40, context.k, context.v)
    for got, want in zip(
        attention(loud, candidates, info, implementation="native"),
        exactly(loud, candidates, info),
        strict=True,
    ):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)
    hidden = [x.clone() for x in (context.k, context.v)]
    for x in hidden:
        x[130:400] = torch.nan
    out, _ = attention(Tokens(context.q, *hidden), None, info, implementation="native")
    assert bool(out[400:].isfinite().all())


def test_the_same_bits_in_any_batch_and_at_any_number_of_threads() -> None:
    context, candidates, info = make([90, 333], [7, 50], 64, prefix=True)
    one = attention(context, candidates, info, implementation="native")
    torch.set_num_threads(2)
    two = attention(context, candidates, info, implementation="native")
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    alone = SeqlenInfo(
        cu_seqlens=offsets([333]), cu_candidates=offsets([50]), prefix=info.prefix[90:]
    )
    last = [Tokens(*(x[n:] for x in t.present)) for t, n in ((context, 90), (candidates, 7))]
    for a, b, n in zip(attention(*last, alone, implementation="native"), one, (90, 7), strict=True):
        assert torch.equal(a, b[n:])


def test_appended_queries_and_strided_tensors() -> None:
    context, candidates, info = make([64, 40], [3, 4], 32, prefix=True)
    fused = torch.cat([*context.present], -1)
    views = Tokens(*fused.split(32, -1))
    assert not views.k.is_contiguous()
    whole = attention(context, candidates, info, implementation="native")
    assert torch.equal(attention(views, candidates, info, implementation="native")[0], whole[0])
    rows = torch.cat([torch.arange(60, 64), torch.arange(70, 104)])
    appended = SeqlenInfo(
        cu_seqlens=info.cu_seqlens, prefix=info.prefix[rows], cu_queries=offsets([4, 34])
    )
    last = Tokens(context.q[rows], context.k, context.v)
    out, _ = attention(last, None, appended, implementation="native")
    torch.testing.assert_close(out, whole[0][rows])


def test_gradients_and_the_operators() -> None:
    context, candidates, info = make([20, 9], [3, 2], 16, prefix=True)
    leaves = [x.requires_grad_() for t in (context, candidates) for x in t.present]
    loss = sum(x.square().sum() for x in attention(context, candidates, info))
    wide = [x.detach().double().requires_grad_() for x in leaves]
    exact = reference(Tokens(*wide[:3]), Tokens(*wide[3:]), info, softmax_scale=0.25)
    want = torch.autograd.grad(sum(x.square().sum() for x in exact), wide)
    assert max(biggest_error(torch.autograd.grad(loss, leaves), want)) < 1e-5
    arguments = (info.cu_seqlens, None, info.prefix, 2, 0.25, "native")
    torch.library.opcheck(ops.context_attention, (*leaves[:3], *arguments))
    arguments = (*leaves[1:3], info.cu_candidates, info.cu_seqlens, 0.25, "native")
    torch.library.opcheck(ops.candidate_attention, (*leaves[3:], *arguments))


def test_offsets_and_prefixes_are_checked_at_the_boundary() -> None:
    context, _, _ = make([8], [0], 16)
    good, q, k, v = offsets([8]), *context.present
    for bad in (offsets([9]), offsets([7]), offsets([8, -1, 1]), offsets([8]) + 1):
        with pytest.raises(ValueError, match="shared_context_attention: "):
            native.context_forward(q, k, v, (bad, bad), None, 2, 0.25)
    far = torch.full((8,), 4, dtype=torch.int32)
    with pytest.raises(ValueError, match="a prefix reaches beyond its impression"):
        native.context_forward(q, k, v, (good, good), far, 2, 0.25)
    pair = (offsets([5, 3]), offsets([3, 5]))
    with pytest.raises(ValueError, match="more queries than tokens"):
        native.context_forward(q, k, v, pair, None, 2, 0.25)
    thin = [x[..., :9].contiguous() for x in context.present]
    with pytest.raises(ValueError, match="head_dim must be a multiple of 16"):
        native.context_forward(*thin, (good, good), None, 2, 0.25)
