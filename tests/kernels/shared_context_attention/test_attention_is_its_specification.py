# SPDX-License-Identifier: Apache-2.0
"""Shared-context attention against its specification: values, gradients, isolation, errors."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.shared_context_attention import (
    SeqlenInfo,
    Tokens,
    attention_flops,
    reference,
    seqlens,
    shared_context_attention,
)
from tests.kernels.shared_context_attention.cases import (
    RAGGED,
    SCALE,
    Case,
    biggest_error,
    make_case,
    offsets,
    plain_attention,
    random_prefix,
)


@pytest.mark.parametrize("prefix", ["none", "random", "zero"])
@pytest.mark.parametrize("attention", [shared_context_attention, plain_attention])
def test_float64_equals_the_reference_in_values_and_gradients(attention, prefix) -> None:  # type: ignore[no-untyped-def]
    case = make_case(*RAGGED, prefix=prefix)
    assert max(biggest_error(case.run(attention), case.run(reference))) < 1e-12
    exact = case.gradients(reference)
    assert max(biggest_error(case.gradients(attention), exact)) < 1e-11


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prefix", ["none", "random"])
def test_low_precision_errs_no_more_than_twice_the_same_maths(dtype, prefix) -> None:  # type: ignore[no-untyped-def]
    lengths, counts = [500, 37, 210], [9, 20, 4]
    low = make_case(lengths, counts, prefix=prefix).to(dtype)
    exact = low.to(torch.float64)
    floor = 4 * torch.finfo(dtype).eps
    for what in (Case.run, Case.gradients):
        truth = what(exact, reference)
        ours = biggest_error(what(low, shared_context_attention), truth)
        theirs = biggest_error(what(low, reference), truth)
        assert all(a <= 2 * b + floor for a, b in zip(ours, theirs, strict=True)), (ours, theirs)


@pytest.mark.parametrize("prefix", ["none", "random"])
def test_gradcheck_in_float64(prefix: str) -> None:
    case = make_case([4, 0, 3], [2, 1, 0], prefix=prefix)

    def outputs(*leaves: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return shared_context_attention(Tokens(*leaves[:3]), Tokens(*leaves[3:]), case.info)

    assert torch.autograd.gradcheck(outputs, case.leaves)


@pytest.mark.law
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_candidate_does_not_depend_on_the_others(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=3))
    counts = [data.draw(st.integers(1, 6)) for _ in lengths]
    case = make_case(lengths, counts, seed=data.draw(st.integers(0, 99)))
    at = data.draw(st.integers(0, sum(counts) - 1))
    expected = case.run()[1][at]
    other = dataclasses.replace(case.info)
    changed = Tokens(
        *(
            x.detach().mul(-3).index_copy(0, torch.tensor([at]), x[[at]].detach())
            for x in case.candidates.present
        )
    )
    _, moved = shared_context_attention(case.context, changed, other, softmax_scale=SCALE)
    torch.testing.assert_close(moved[at], expected, rtol=0, atol=1e-13)
    request = next(s for s in range(len(counts)) if at < sum(counts[: s + 1]))
    alone = dataclasses.replace(
        case.info, cu_candidates=offsets([int(s == request) for s in range(len(counts))])
    )
    single = Tokens(*(x[[at]] for x in case.candidates.present))
    _, out = shared_context_attention(case.context, single, alone, softmax_scale=SCALE)
    torch.testing.assert_close(out[0], expected, rtol=0, atol=1e-13)


@pytest.mark.law
@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(1, 60),
    before=st.integers(0, 30),
    prefix=st.sampled_from(["none", "random"]),
    seed=st.integers(0, 99),
)
def test_a_context_does_not_depend_on_its_batch_bit_for_bit(
    length: int, before: int, prefix: str, seed: int
) -> None:
    batch = make_case([before, length, 7], [0, 0, 0], prefix=prefix, seed=seed).to(torch.float32)
    rows = slice(before, before + length)
    own = batch.info.prefix
    info = SeqlenInfo(cu_seqlens=offsets([length]), prefix=None if own is None else own[rows])
    alone = Tokens(*(x[rows] for x in batch.context.present))
    out, _ = shared_context_attention(alone, None, info, softmax_scale=SCALE)
    assert torch.equal(out, batch.run()[0][rows])


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    counts=st.lists(st.integers(0, 5), min_size=5, max_size=5),
    prefix=st.sampled_from(["none", "random", "zero"]),
    group=st.integers(1, 4),
    seed=st.integers(0, 999),
)
def test_any_ragged_batch_equals_the_reference(  # type: ignore[no-untyped-def]
    lengths, counts, prefix, group, seed
) -> None:
    case = make_case(lengths, counts[: len(lengths)], prefix=prefix, group=group, seed=seed)
    for got, exact in zip(case.run(), case.run(reference), strict=True):
        torch.testing.assert_close(got, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("keep", [0, 2**30])
def test_prefixes_of_a_sequence_of_many_tiles(keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seqlens, "TILE_ROWS", 8)
    monkeypatch.setattr(seqlens, "MASK_BYTES", keep)
    case = make_case([50, 9, 8], [0, 1, 2], prefix="random", group=3)
    assert len(case.info.context_tiles) == 7 + 2 + 1
    exact = case.gradients(reference)
    assert max(biggest_error(case.gradients(shared_context_attention), exact)) < 1e-11


def test_a_prefix_that_says_causal_takes_the_path_without_a_mask() -> None:
    n = 300
    own = torch.arange(n, dtype=torch.int32) // 2 * 2
    info = SeqlenInfo(cu_seqlens=offsets([n]), prefix=own)
    assert [t.masked for t in info.context_tiles] == ["causal"]
    case = make_case([n], [1])
    out, _ = shared_context_attention(case.context, None, info, softmax_scale=SCALE)
    assert torch.equal(out, case.run()[0])


def test_a_hidden_token_changes_nothing() -> None:
    """Tokens at or after the prefix, outside the own impression, have no effect on a row."""
    case = make_case([20], [0], prefix="zero")
    prefix = torch.tensor([0] * 10 + [4] * 10, dtype=torch.int32)
    info = SeqlenInfo(cu_seqlens=offsets([20]), prefix=prefix)
    before, _ = shared_context_attention(case.context, None, info)
    changed = Tokens(case.context.q, *(x.detach().clone() for x in case.context.present[1:]))
    for x in (changed.k, changed.v):
        x[4:10] = 100.0
    after, _ = shared_context_attention(changed, None, info)
    assert torch.equal(before[10:], after[10:])
    assert not torch.equal(before[4:10], after[4:10])


def test_cached_keys_and_values_give_the_same_candidates() -> None:
    case = make_case([30, 4], [3, 3])
    cached = Tokens(None, case.context.k, case.context.v)
    none, out = shared_context_attention(cached, case.candidates, case.info, softmax_scale=SCALE)
    assert none is None
    assert torch.equal(out, case.run()[1])


def test_a_candidate_without_context_sees_itself_alone() -> None:
    case = make_case([0], [3])
    torch.testing.assert_close(case.run()[1], case.candidates.v)
    no_candidates = make_case([5], [0]).run()
    assert [len(x) for x in no_candidates] == [5, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_head_dims_that_fill_no_vector(dtype: torch.dtype) -> None:
    info = SeqlenInfo(
        cu_seqlens=offsets([21, 2]),
        cu_candidates=offsets([3, 1]),
        prefix=random_prefix([21, 2], 2, torch.Generator().manual_seed(1)),
    )
    low = [torch.randn(n, 3, 5).to(dtype).requires_grad_() for n in (23, 23, 23, 4, 4, 4)]
    outs = shared_context_attention(Tokens(*low[:3]), Tokens(*low[3:]), info)
    wide = [x.detach().double().requires_grad_() for x in low]
    exact = reference(Tokens(*wide[:3]), Tokens(*wide[3:]), info, softmax_scale=5**-0.5)
    tolerance = 20 * torch.finfo(dtype).eps
    assert max(biggest_error(outs, exact)) < tolerance
    got = torch.autograd.grad(sum(x.float().sum() for x in outs), low)
    want = torch.autograd.grad(sum(x.sum() for x in exact), wide)
    assert max(biggest_error(got, want)) < 5 * tolerance


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; covered on the CPU")
@pytest.mark.parametrize("prefix", ["none", "random"])
def test_the_same_on_a_gpu(prefix: str) -> None:
    case = make_case([300, 0, 41], [5, 2, 0], prefix=prefix).to(torch.float32)
    elsewhere = dataclasses.replace(
        case.info,
        **{
            f.name: value.cuda()
            for f in dataclasses.fields(case.info)
            if isinstance(value := getattr(case.info, f.name), Tensor)
        },
    )
    moved = [
        Tokens(*(x.detach().cuda() for x in t.present)) for t in (case.context, case.candidates)
    ]
    outs = shared_context_attention(*moved, elsewhere, softmax_scale=SCALE)
    for got, exact in zip(outs, case.run(), strict=True):
        torch.testing.assert_close(got.cpu(), exact, rtol=1e-3, atol=1e-4)


def test_strided_and_broadcast_inputs() -> None:
    case = make_case([9, 5], [2, 2])
    fused = torch.stack([x.detach() for x in case.context.present], dim=-1)
    strided = Tokens(*fused.unbind(-1))
    assert strided.k.stride(-1) == 3
    out, _ = shared_context_attention(strided, None, case.info, softmax_scale=SCALE)
    torch.testing.assert_close(out, case.run()[0])
    ones = torch.autograd.grad(case.run()[1].sum(), case.leaves, allow_unused=True)
    exact = torch.autograd.grad(case.run(reference)[1].sum(), case.leaves, allow_unused=True)
    torch.testing.assert_close(ones[3:], exact[3:])


def test_tensors_that_do_not_fit_are_refused() -> None:
    case = make_case([4], [2])
    with pytest.raises(ValueError, match=r"context has a tensor \[3, 2, 8\], want \[4"):
        shared_context_attention(
            dataclasses.replace(case.context, v=case.context.v[:3]), None, case.info
        )
    low = dataclasses.replace(case.candidates, k=case.candidates.k.float())
    with pytest.raises(ValueError, match=r"candidates has a tensor torch\.float32"):
        shared_context_attention(case.context, low, case.info)
    with pytest.raises(ValueError, match="candidates have no q"):
        shared_context_attention(
            case.context, dataclasses.replace(case.candidates, q=None), case.info
        )
    info = SeqlenInfo(cu_seqlens=case.info.cu_seqlens)
    with pytest.raises(ValueError, match="no cu_candidates"):
        shared_context_attention(case.context, case.candidates, info)


@pytest.mark.parametrize("prefix", ["none", "random"])
def test_queries_of_the_last_tokens_alone(prefix: str) -> None:
    """With the earlier tokens' keys and values at hand, appended tokens attend as always."""
    case = make_case([12, 0, 9, 5], [2, 1, 0, 1], prefix=prefix)
    last = [(7, 12), (12, 12), (12, 21), (26, 26)]
    rows = torch.cat([torch.arange(*pair) for pair in last])
    own = case.info.prefix
    info = SeqlenInfo(
        cu_seqlens=case.info.cu_seqlens,
        cu_candidates=case.info.cu_candidates,
        prefix=None if own is None else own[rows],
        cu_queries=offsets([b - a for a, b in last]),
    )
    q, k, v = case.context.present
    appended = Case(Tokens(q[rows].detach().requires_grad_(), k, v), case.candidates, info)
    whole = case.run(reference)
    for run in (shared_context_attention, plain_attention, reference):
        out, candidates = appended.run(run)
        torch.testing.assert_close(out, whole[0][rows])
        torch.testing.assert_close(candidates, whole[1])
    got = appended.gradients(shared_context_attention)
    assert max(biggest_error(got, appended.gradients(reference))) < 1e-11
    assert attention_flops(info, heads=1, head_dim=1) < attention_flops(
        case.info, heads=1, head_dim=1
    )
