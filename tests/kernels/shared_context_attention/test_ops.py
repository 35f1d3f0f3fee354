# SPDX-License-Identifier: Apache-2.0
"""The operators: what torch's own checks say of them, their log-sum-exp, and torch.compile."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from kernels.shared_context_attention import (
    Tokens,
    ops,
    shared_context_attention,
    shared_context_attention_lse,
)
from kernels.shared_context_attention.reference import context_mask
from tests.kernels.shared_context_attention.cases import SCALE, make_case


@pytest.mark.parametrize("prefix", ["none", "random"])
def test_the_log_sum_exp_and_its_gradient(prefix: str) -> None:
    case = make_case([6, 3], [2, 1], prefix=prefix)

    def outputs(*leaves: Tensor) -> tuple[Tensor, ...]:
        context, candidates = Tokens(*leaves[:3]), Tokens(*leaves[3:])
        over = shared_context_attention_lse(context, candidates, case.info, softmax_scale=SCALE)
        return tuple(x for pair in over if pair is not None for x in pair)

    out, lse, out_N, _ = outputs(*case.leaves)
    q, k, _ = case.context.present
    scores = torch.einsum("rhd,chd->hrc", q[:6], k[:6]).mul(SCALE)
    exact = scores.masked_fill(~context_mask(case.info, 0), -torch.inf).logsumexp(-1).T
    torch.testing.assert_close(lse[:6], exact)
    assert torch.equal(out, case.run()[0])
    assert torch.equal(out_N, case.run()[1])
    assert torch.autograd.gradcheck(outputs, case.leaves)


def test_operators_are_what_they_say() -> None:
    case = make_case([4, 0, 6], [2, 1, 3], prefix="random")
    info, (q, k, v) = case.info, case.context.present
    context = (q, k, v, info.cu_seqlens, None, info.prefix, info.group, SCALE, "portable")
    torch.library.opcheck(ops.context_attention, context)
    offsets = (info.cu_candidates, info.cu_seqlens)
    torch.library.opcheck(
        ops.candidate_attention, (*case.candidates.present, k, v, *offsets, SCALE, "portable")
    )


def test_under_torch_compile() -> None:
    case = make_case([8, 5], [3, 2], prefix="random").to(torch.float32)

    def layer(*leaves: Tensor) -> Tensor:
        context, candidates = Tokens(*leaves[:3]), Tokens(*leaves[3:])
        out, out_N = shared_context_attention(context, candidates, case.info, softmax_scale=SCALE)
        assert out is not None
        assert out_N is not None
        return out.square().sum() + (2 * out_N).sum()

    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*case.leaves), layer(*case.leaves))
    for got, want in zip(
        torch.autograd.grad(compiled(*case.leaves), case.leaves),
        torch.autograd.grad(layer(*case.leaves), case.leaves),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


def test_who_wants_no_gradient_has_the_same_bits() -> None:
    case = make_case([8, 5], [3, 2], prefix="random").to(torch.float32)
    arguments = (case.context, case.candidates, case.info, SCALE, "portable")
    with torch.no_grad():
        plain = ops.attend(*arguments)
    for got, want in zip(plain, ops.attend(*arguments), strict=True):
        assert all(map(torch.equal, got, want))
        assert not any(x.requires_grad for x in got)
        assert want[0].requires_grad


SCORING = """
import sys
import torch
from kernels.shared_context_attention import SeqlenInfo, Tokens, shared_context_attention
context, candidates = (Tokens(*torch.randn(3, n, 2, 16)) for n in (5, 3))
cu_seqlens, cu_candidates = (torch.tensor([0, n], dtype=torch.int32) for n in (5, 3))
info = SeqlenInfo(cu_seqlens=cu_seqlens, cu_candidates=cu_candidates)
with torch.inference_mode():
    shared_context_attention(context, candidates, info, softmax_scale=0.25)
print("torch._dynamo" in sys.modules)
"""


def test_a_process_that_scores_loads_no_compiler() -> None:
    command = [sys.executable, "-c", SCORING]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "False\n"
