# SPDX-License-Identifier: Apache-2.0
"""Triton's backward: gradients of views, and of a candidate's own key and value."""

from __future__ import annotations

import pytest
import torch

from kernels.shared_context_attention import Tokens
from tests.kernels.shared_context_attention.gpu.cases import (
    assert_same,
    attention,
    dense,
    make,
    wide,
)

pytest.importorskip("triton", reason="needs Triton: install the extra gpu")


def test_views_of_a_fused_projection_and_of_their_gradient(device: str) -> None:
    case = context, candidates, info = make([40, 7], [3, 4], device=device)
    fused = torch.cat([x.detach() for x in context.present], -1).requires_grad_()
    views = Tokens(*fused.split(32, -1))
    assert not views.k.is_contiguous()
    for got, want in zip(attention(views, candidates, info), attention(*case), strict=True):
        assert_same(got, want, case)
    grad = torch.autograd.grad(attention(views, None, info)[0].sum(), fused)[0]
    whole = wide((context, candidates, info))
    exact = torch.autograd.grad(dense(*whole)[0].sum(), whole[0].present)
    torch.testing.assert_close(grad.double(), torch.cat(exact, -1), rtol=1e-4, atol=1e-5)


def test_a_candidate_alone_gives_all_its_gradient_to_its_own_value(device: str) -> None:
    """Without a context the weight of its own value is one, whatever its own key is."""
    context, candidates, info = make([0], [3], device=device)
    out_N = attention(context, candidates, info)[2]
    weights = torch.arange(out_N.numel(), device=device).view_as(out_N).cos()
    q, own_k, own_v = torch.autograd.grad((out_N * weights).sum(), candidates.present)
    torch.testing.assert_close(own_v, weights)
    assert not q.any()
    assert not own_k.any()
