# SPDX-License-Identifier: Apache-2.0
"""The exact split in public PyTorch operators only: any device, differentiable by itself.

The fallback where no flash operator with a log-sum-exp is at hand, and the oracle of the
hand-written gradient. Scores of one request, `[heads, candidates, context + 1]`, are kept for the
backward.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.shared_context_attention.scale import above_zero, check_scale
from kernels.shared_context_attention.seqlens import SeqlenInfo, Tokens


def attend(
    context: Tokens, candidates: Tokens | None, info: SeqlenInfo, scale: float
) -> tuple[Tensor | None, Tensor | None]:
    """Outputs `[Q, H, D]` and `[N, H, D]`; None where there is no query."""
    check_scale(scale, context.k.dtype)
    k, v = context.k, context.v
    return (
        None if context.q is None else context_attention(context.q, k, v, info, scale),
        None if candidates is None else candidate_attention(candidates, k, v, info, scale),
    )


def context_attention(q: Tensor, k: Tensor, v: Tensor, info: SeqlenInfo, scale: float) -> Tensor:
    """Context queries over the context of their own sequence: `[Q, H, D]`."""
    q, scale, _ = above_zero(q, scale)
    outs = []
    for tile in info.context_tiles:
        out_RHD = F.scaled_dot_product_attention(
            q[tile.rows].transpose(0, 1)[None],
            k[tile.keys].transpose(0, 1)[None],
            v[tile.keys].transpose(0, 1)[None],
            attn_mask=info.mask(tile, q.dtype),
            is_causal=tile.masked == "causal",
            scale=scale,
        )
        outs.append(out_RHD[0].transpose(0, 1))
    return torch.cat(outs) if outs else torch.zeros_like(q)


def candidate_attention(
    candidates: Tokens, k: Tensor, v: Tensor, info: SeqlenInfo, scale: float
) -> Tensor:
    """Candidates over the context of their request and themselves: `[N, H, D]`.

    One softmax over the context's scores and the self score, so no log-sum-exp is needed.
    """
    q = candidates.q
    assert q is not None
    wide = torch.promote_types(q.dtype, torch.float32)
    outs = []
    for keys, rows in zip(info.sequences, info.requests, strict=True):
        q_HRD = q[rows].transpose(0, 1)
        scores = torch.bmm(q_HRD, k[keys].permute(1, 2, 0)).to(wide) * scale
        own = (q[rows].to(wide) * candidates.k[rows]).sum(-1).transpose(0, 1) * scale
        weights = torch.cat([scores, own[..., None]], dim=-1).softmax(-1).to(q.dtype)
        over_context = torch.bmm(weights[..., :-1], v[keys].transpose(0, 1))
        over_self = weights[..., -1].transpose(0, 1).unsqueeze(-1) * candidates.v[rows]
        outs.append(over_context.transpose(0, 1) + over_self)
    return torch.cat(outs) if outs else torch.zeros_like(q)
