# SPDX-License-Identifier: Apache-2.0
"""Work of shared-context attention: the pairs that see each other, however they are computed."""

from __future__ import annotations

from kernels.shared_context_attention.seqlens import SeqlenInfo


def context_pairs(info: SeqlenInfo) -> int:
    """How many (context token, key) pairs are seen."""
    own = info.position_Q - info.own_Q + 1
    return int((info.prefix_Q + own).sum())


def candidate_pairs(info: SeqlenInfo) -> int:
    """How many (candidate, key) pairs are seen."""
    batch = zip(info.requests, info.sequences, strict=True)
    return sum((r.stop - r.start) * (s.stop - s.start + 1) for r, s in batch)


def attention_flops(
    info: SeqlenInfo, *, heads: int, head_dim: int, context: bool = True, backward: bool = False
) -> int:
    """Floating-point operations of one layer's attention, a multiply-add counted as two.

    Two matmuls a pair forward (scores, values); the backward has five, with the scores computed
    again, but by convention counts as four: recomputation is an implementation's choice. Softmax
    is not counted.

    Args:
        info: the packed batch.
        heads: query heads.
        head_dim: width of a head.
        context: whether context queries are computed (False: cached, or a last layer in serving).
        backward: add the backward's two matmuls for each of the forward's.
    """
    pairs = candidate_pairs(info) + (context_pairs(info) if context else 0)
    return pairs * heads * head_dim * 4 * (3 if backward else 1)
