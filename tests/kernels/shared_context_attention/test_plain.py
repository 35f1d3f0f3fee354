# SPDX-License-Identifier: Apache-2.0
"""The public operators: one softmax over a request's context and its own key, any device."""

from __future__ import annotations

import torch

from kernels.shared_context_attention import Tokens, plain, reference
from tests.kernels.shared_context_attention.cases import RAGGED, SCALE, make_case


def test_a_candidate_is_one_softmax_over_its_context_and_itself() -> None:
    case = make_case([5], [1])
    q, own_k, own_v = (x.detach()[0] for x in case.candidates.present)
    k, v = torch.cat([case.context.k, own_k[None]]), torch.cat([case.context.v, own_v[None]])
    weights = (torch.einsum("hd,chd->ch", q, k) * SCALE).softmax(0)
    want = torch.einsum("ch,chd->hd", weights, v)
    got = plain.candidate_attention(
        case.candidates, case.context.k, case.context.v, case.info, SCALE
    )
    torch.testing.assert_close(got[0], want)


def test_what_has_no_query_is_not_computed() -> None:
    case = make_case(*RAGGED)
    cached = Tokens(None, case.context.k, case.context.v)
    assert plain.attend(cached, None, case.info, SCALE) == (None, None)
    out, out_N = plain.attend(cached, case.candidates, case.info, SCALE)
    assert out is None
    assert out_N is not None
    torch.testing.assert_close(out_N, case.run(reference)[1])


def test_an_empty_batch_is_of_its_shape() -> None:
    case = make_case([], [])
    outs = plain.attend(case.context, case.candidates, case.info, SCALE)
    assert [None if x is None else x.shape for x in outs] == [(0, 2, 8), (0, 2, 8)]


def test_low_precision_weighs_in_float32() -> None:
    """Scores of 300 candidates' worth of keys overflow nothing: the softmax is of wide scores."""
    case = make_case([300], [4]).to(torch.float16)
    out = plain.candidate_attention(
        case.candidates, case.context.k, case.context.v, case.info, 40.0
    )
    assert out.dtype == torch.float16
    assert bool(out.isfinite().all())
