# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels against the specification in float64.

With a GPU they run there; without one Triton's interpreter runs them on the CPU, where operands of
products are float32.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.shared_context_attention import SeqlenInfo, Tokens, ops, shared_context_attention
from tests.kernels.shared_context_attention.cases import offsets
from tests.kernels.shared_context_attention.gpu.cases import (
    HAS_GPU,
    NEEDS_GPU,
    assert_errs_like,
    assert_same,
    attention,
    dense,
    everything,
    leaves,
    make,
    wide,
)

pytest.importorskip("triton", reason="needs Triton: install the extra gpu")

RAGGED = ([80, 0, 1, 21], [40, 2, 0, 3])


@pytest.mark.parametrize(
    ("head_dim", "prefix"), [(32, False), (32, True), (64, True), (128, False), (128, True)]
)
def test_values_log_sum_exps_and_all_gradients(device: str, head_dim: int, prefix: bool) -> None:
    assert_errs_like(make(*RAGGED, head_dim, prefix=prefix, device=device))


@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision(device: str, dtype: torch.dtype, head_dim: int) -> None:
    """The interpreter cuts bfloat16 off: there it shows no more than that the kernels run."""
    if device == "cpu" and head_dim != 64:
        pytest.skip("the interpreter is slow; covered by head_dim 64")
    truncates = device == "cpu" and dtype == torch.bfloat16
    case = make([150, 0, 9], [70, 2, 0], head_dim, dtype=dtype, device=device)
    assert_errs_like(case, 10.0 if truncates else 2.0)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason=NEEDS_GPU)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_batch_on_a_gpu(dtype: torch.dtype) -> None:
    assert_errs_like(make([2000, 777, 0], [512, 100, 3], 64, dtype=dtype, device="cuda"))


@settings(max_examples=100 if HAS_GPU else 6, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 70), min_size=1, max_size=2),
    counts=st.lists(st.integers(0, 9), min_size=2, max_size=2),
    prefix=st.booleans(),
    group=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_any_ragged_batch(lengths, counts, prefix, group, seed) -> None:  # type: ignore[no-untyped-def]
    where = "cuda" if HAS_GPU else "cpu"
    case = make(
        lengths, counts[: len(lengths)], prefix=prefix, group=group, seed=seed, device=where
    )
    for got, want in zip(everything(attention, case), everything(dense, wide(case)), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("prefix", [False, True])
def test_queries_of_the_last_tokens_alone(device: str, prefix: bool) -> None:
    lengths = [90, 0, 17, 5]
    context, candidates, info = make(lengths, [3, 1, 0, 2], prefix=prefix, device=device)
    last = [(41, 90), (90, 90), (90, 107), (112, 112)]
    rows = torch.cat([torch.arange(*pair) for pair in last]).to(device)
    appended = SeqlenInfo(
        cu_seqlens=info.cu_seqlens,
        cu_candidates=info.cu_candidates,
        prefix=None if info.prefix is None else info.prefix[rows],
        cu_queries=offsets([b - a for a, b in last]).to(device),
    )
    assert context.q is not None
    q = context.q.detach()[rows].requires_grad_()
    case = (Tokens(q, context.k, context.v), candidates, appended)
    assert_errs_like(case)
    whole = attention(context, candidates, info)
    assert_same(attention(*case)[0], whole[0][rows], case)


@pytest.mark.parametrize(("lengths", "counts"), [([], []), ([0, 0], [0, 2]), ([5], [0])])
def test_nothing_to_do(device: str, lengths: list[int], counts: list[int]) -> None:
    case = make(lengths, counts, device=device)
    out, _, out_N, _ = attention(*case)
    assert [len(out), len(out_N)] == [sum(lengths), sum(counts)]
    torch.autograd.grad(out.sum() + out_N.sum(), leaves(case))
    if not sum(lengths):
        torch.testing.assert_close(out_N, case[1].v)


def test_operators_are_what_they_say(device: str) -> None:
    context, candidates, info = make([9, 0, 6], [2, 1, 3], device=device)
    scale = 32**-0.5
    who = (info.cu_seqlens, None, info.prefix, info.group, scale, "triton")
    torch.library.opcheck(ops.context_attention, (*context.present, *who))
    kv = (context.k, context.v)
    cu = (info.cu_candidates, info.cu_seqlens)
    who_N = (*candidates.present, *kv, *cu, scale, "triton")
    torch.library.opcheck(ops.candidate_attention, who_N)


def test_under_torch_compile(device: str) -> None:
    case = make([8, 5], [3, 2], device=device)

    def loss() -> Tensor:
        context, candidates, info = case
        outs = shared_context_attention(context, candidates, info, implementation="triton")
        return sum(
            (x.square().sum() for x in outs if x is not None), torch.zeros((), device=device)
        )

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(), loss())
    for got, want in zip(
        torch.autograd.grad(compiled(), leaves(case)),
        torch.autograd.grad(loss(), leaves(case)),
        strict=True,
    ):
        torch.testing.assert_close(got, want)
