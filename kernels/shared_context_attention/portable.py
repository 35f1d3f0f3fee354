# SPDX-License-Identifier: Apache-2.0
"""The portable version: the exact split, by CPU flash attention or else by public operators.

Memory beyond inputs and outputs: one log-sum-exp a row and head, masks of at most
`seqlens.MASK_BYTES` a batch, and one tile's mask, `TILE_ROWS x length`. Nothing is padded and no
score matrix is kept.
"""

from __future__ import annotations

from torch import Tensor

from kernels.shared_context_attention import flash, plain
from kernels.shared_context_attention.seqlens import SeqlenInfo, Tokens


def portable(
    context: Tokens, candidates: Tokens | None, info: SeqlenInfo, *, softmax_scale: float
) -> tuple[Tensor | None, Tensor | None]:
    """Outputs `[M, heads, head_dim]` and `[N, heads, head_dim]`; None where there is no query."""
    by_flash = flash.available(context.k.device.type, context.k.dtype)
    out_context = out_candidates = None
    if context.q is not None:
        attend = flash.ContextAttention.apply if by_flash else plain.context_attention
        out_context = attend(context.q, context.k, context.v, info, softmax_scale)
    if candidates is not None and by_flash:
        out_candidates = flash.CandidateAttention.apply(
            candidates.q, candidates.k, candidates.v, context.k, context.v, info, softmax_scale
        )
    elif candidates is not None:
        out_candidates = plain.candidate_attention(
            candidates, context.k, context.v, info, softmax_scale
        )
    return out_context, out_candidates
