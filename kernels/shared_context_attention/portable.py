# SPDX-License-Identifier: Apache-2.0
"""The portable version: the exact split, by CPU flash attention or else by public operators.

Memory beyond inputs and outputs: one log-sum-exp a row and head, masks of at most
`seqlens.MASK_BYTES` a batch, and one tile's mask, `TILE_ROWS x length`. Nothing is padded and no
score matrix is kept.
"""

from __future__ import annotations

from torch import Tensor

from kernels.shared_context_attention import flash, ops, plain
from kernels.shared_context_attention.seqlens import SeqlenInfo, Tokens


def portable(
    context: Tokens, candidates: Tokens | None, info: SeqlenInfo, *, softmax_scale: float
) -> tuple[Tensor | None, Tensor | None]:
    """Outputs `[Q, heads, head_dim]` and `[N, heads, head_dim]`; None where there is no query."""
    if not flash.available(context.k.device.type, context.k.dtype):
        return plain.attend(context, candidates, info, softmax_scale)
    attended = ops.attend(context, candidates, info, softmax_scale, "portable")
    out_context, out_candidates = (None if x is None else x[0] for x in attended)
    return out_context, out_candidates
