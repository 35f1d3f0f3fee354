# SPDX-License-Identifier: Apache-2.0
"""The specification itself: who sees whom, by hand, and a softmax as torch's own."""

from __future__ import annotations

import torch

from kernels.shared_context_attention import SeqlenInfo, Tokens, reference
from kernels.shared_context_attention.reference import attend, candidate_mask, context_mask
from tests.kernels.shared_context_attention.cases import SCALE, make_case


def test_reference_attends_as_torch_does() -> None:
    case = make_case([7], [0])
    q, k, v = case.context.present
    mask = torch.ones(7, 7).tril().bool()
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(0, 1) for x in (q, k, v)), is_causal=True
    )
    torch.testing.assert_close(attend(q, k, v, mask, SCALE), theirs.transpose(0, 1))


def test_reference_masks_say_what_the_readme_says() -> None:
    info = SeqlenInfo(
        cu_seqlens=torch.tensor([0, 6]).int(), prefix=torch.tensor([0, 0, 0, 0, 2, 2]).int()
    )
    seen = context_mask(info, 0).int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]
    assert candidate_mask(2, 2, torch.device("cpu")).int().tolist() == [[1, 1, 1, 0], [1, 1, 0, 1]]


def test_without_a_query_there_is_no_output() -> None:
    case = make_case([3], [2])
    cached = Tokens(None, case.context.k, case.context.v)
    assert reference(cached, None, case.info, softmax_scale=SCALE) == (None, None)
    out, out_N = reference(cached, case.candidates, case.info, softmax_scale=SCALE)
    assert out is None
    assert out_N is not None
    assert torch.equal(out_N, case.run(reference)[1])
    empty = make_case([], [])
    assert [x.shape for x in empty.run(reference)] == [(0, 2, 8), (0, 2, 8)]
