# SPDX-License-Identifier: Apache-2.0
"""Triton's forward: which blocks it visits, and that a row has the same result in any batch."""

from __future__ import annotations

import pytest
import torch

from kernels.shared_context_attention import SeqlenInfo, Tokens
from tests.kernels.shared_context_attention.cases import offsets
from tests.kernels.shared_context_attention.gpu.cases import (
    assert_same,
    attention,
    dense,
    make,
    wide,
)

pytest.importorskip("triton", reason="needs Triton: install the extra gpu")


def test_the_same_in_any_batch_and_with_a_cached_context(device: str) -> None:
    case = context, candidates, info = make([37, 80], [5, 66], device=device)
    out, _, out_N, _ = attention(context, candidates, info)
    cached = attention(Tokens(None, context.k, context.v), candidates, info)
    assert_same(cached[0], out_N, case)
    assert info.prefix is not None
    alone = SeqlenInfo(
        cu_seqlens=offsets([80]).to(device),
        cu_candidates=offsets([2]).to(device),
        prefix=info.prefix[37:],
    )
    last = Tokens(*(x[37:] for x in context.present))
    two = Tokens(*(x[-2:].flip(0) for x in candidates.present))
    again, _, again_N, _ = attention(last, two, alone)
    assert_same(again, out[37:], case)
    assert_same(again_N.flip(0), out_N[-2:], case)


def test_hidden_blocks_are_not_visited_and_great_scores_do_not_overflow(device: str) -> None:
    context, candidates, _ = make([480], [5], device=device)
    prefix = torch.zeros(480, dtype=torch.int32)
    prefix[400:] = 130
    info = SeqlenInfo(
        cu_seqlens=offsets([480]).to(device),
        cu_candidates=offsets([5]).to(device),
        prefix=prefix.to(device),
    )
    q, k, v = (x.detach() for x in context.present)
    loud = (Tokens(q * 40, k, v), candidates, info)
    for got, want in zip(attention(*loud), dense(*wide(loud)), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)
    quiet = (Tokens(q, k, v), candidates, info)
    before = attention(*quiet)[0]
    holes = [x.clone() for x in (k, v)]
    for x in holes:
        x[192:384] = torch.nan
    assert_same(attention(Tokens(q, *holes), None, info)[0][400:], before[400:], quiet)
