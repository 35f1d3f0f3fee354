# SPDX-License-Identifier: Apache-2.0
"""The work that is counted is the pairs that the specification sees."""

from __future__ import annotations

import torch

from kernels.shared_context_attention import SeqlenInfo, attention_flops
from kernels.shared_context_attention.reference import candidate_mask, context_mask


def test_flops_count_the_pairs_the_reference_sees() -> None:
    lengths, counts, heads, head_dim = [6, 0, 1, 9], [3, 2, 0, 5], 2, 8
    cu_seqlens, cu_candidates = (
        torch.tensor([0, *x]).cumsum(0).to(torch.int32) for x in (lengths, counts)
    )
    prefix = torch.tensor([0, 0, 2, 1, 4, 0, 0, *[0, 0, 2, 2, 0, 4, 6, 3, 8]]).to(torch.int32)
    info = SeqlenInfo(cu_seqlens=cu_seqlens, cu_candidates=cu_candidates, prefix=prefix)
    context = sum(int(context_mask(info, s).sum()) for s in range(len(lengths)))
    candidates = sum(
        int(candidate_mask(n, c, prefix.device).sum()) for n, c in zip(lengths, counts, strict=True)
    )
    per_pair = 4 * heads * head_dim
    alone, both, trained = (
        attention_flops(info, heads=heads, head_dim=head_dim, context=c, backward=b)
        for c, b in ((False, False), (True, False), (True, True))
    )
    assert alone == candidates * per_pair
    assert both == (candidates + context) * per_pair
    assert trained == 3 * both
