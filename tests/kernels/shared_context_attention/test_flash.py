# SPDX-License-Identifier: Apache-2.0
"""The exact split on the flash operator, and the traps of its log-sum-exp and of its blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.shared_context_attention import flash, reference, shared_context_attention
from kernels.shared_context_attention.seqlens import Tile
from tests.kernels.shared_context_attention.cases import SCALE, biggest_error, make_case


def test_autograd_through_the_log_sum_exp_would_be_wrong() -> None:
    """The trap the hand-written backward avoids: it runs, and its gradient is silently wrong."""
    case = make_case([12], [5])
    q, k_self, v_self = case.candidates.present
    k, v = case.context.k, case.context.v

    def naive() -> Tensor:
        heads_first = (x.transpose(0, 1)[None] for x in (q, k, v))
        out, lse = flash._forward(*heads_first, scale=SCALE)
        out, lse = out[0].transpose(0, 1), lse[0].transpose(0, 1)
        own = (q * k_self).sum(-1) * SCALE
        merged = torch.logaddexp(lse, own)
        return (lse - merged).exp()[..., None] * out + (own - merged).exp()[..., None] * v_self

    exact = case.run(reference)[1]
    assert (naive() - exact).abs().max() < 1e-12
    wrong, right, ours = (
        torch.autograd.grad(x.square().sum(), q)[0] for x in (naive(), exact, case.run()[1])
    )
    assert (wrong - right).abs().max() > 1e-3
    assert (ours - right).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_whose_first_keys_are_all_hidden(dtype: torch.dtype) -> None:
    """The flash operator walks keys in blocks of 512; here most rows see none of whole blocks."""
    case = make_case([1200], [0], prefix="zero").to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert max(biggest_error(case.run(), case.run(reference))) < tolerance
    exact = case.gradients(reference)
    assert max(biggest_error(case.gradients(shared_context_attention), exact)) < 10 * tolerance


def test_rows_of_no_tile_see_nothing() -> None:
    case = make_case([6], [0])
    q, k, v = (x.detach() for x in case.context.present)
    tiles = [Tile(slice(1, 3), slice(0, 6)), Tile(slice(4, 5), slice(0, 6))]
    out, lse = flash.flash_forward((q, k, v), tiles, case.info, SCALE)
    seen = torch.tensor([False, True, True, False, True, False])
    assert not out[~seen].any()
    assert bool((lse[~seen] == -torch.inf).all())
    scores = torch.einsum("rhd,chd->rhc", q[seen], k) * SCALE
    torch.testing.assert_close(lse[seen], scores.logsumexp(-1))
    torch.testing.assert_close(out[seen], torch.einsum("rhc,chd->rhd", scores.softmax(-1), v))


def test_it_is_for_the_cpu_and_floats() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        assert flash.available("cpu", dtype)
        assert not flash.available("cuda", dtype)
    assert not flash.available("cpu", torch.int32)
