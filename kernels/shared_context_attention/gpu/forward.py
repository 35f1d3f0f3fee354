# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-def"
"""The forward in Triton, one kernel for context queries and candidates alike.

A program has one tile of query rows of one head, and goes over blocks of keys with a running
maximum and sum in base 2. A candidate is one more key to itself, at the end.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.shared_context_attention.gpu.blocks import (
    LN_2,
    LOG2_E,
    Batch,
    block_start,
    dot,
    heads,
    is_seen,
    read,
    sees,
    span,
    stretches,
    tile_of,
    write,
)
from kernels.shared_context_attention.gpu.tiles import blocks, tiles

Offsets = tuple[Tensor, Tensor]
"""int32 `[S + 1]` of the queries (or candidates), and of the context's tokens."""


def forward(
    q: Tensor,
    kv: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor] | None,
    offsets: Offsets,
    visible: tuple[Tensor | None, int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Queries over the keys of their sequence, and over `own`.

    Args:
        q: `[Q, H, D]`, a context's queries; or `[N, H, D]`, candidates.
        kv: keys and values `[M, H, D]`.
        own: a candidate's key and value `[N, H, D]`; None for a context.
        offsets: of q and of kv.
        visible: the context's prefix `[Q]` or None, and group.
        scale: factor of the scores.

    Returns:
        output like q, dense; natural log-sum-exp, float32 `[Q, H]`.
    """
    count, heads_H, head_dim = q.shape
    out = q.new_empty(q.shape)
    lse = q.new_empty(q.shape[:2], dtype=torch.float32)
    size = blocks("forward", q.dtype, head_dim)
    batch = Batch(offsets[0], offsets[1], visible[0], tiles(offsets[0], count, size.tile))
    own_k, own_v = (None, None) if own is None else map(heads, own)
    with torch.cuda.device_of(q):
        attend[(len(batch.tiles), heads_H)](
            *map(heads, (q, *kv)),
            own_k,
            own_v,
            batch,
            heads(out),
            lse,
            scale,
            visible[1],
            head_dim,
            size.tile,
            size.step,
            num_warps=size.warps,
            num_stages=size.stages,
        )
    return out, lse


@triton.jit
def attend(
    q,
    k,
    v,
    own_k,
    own_v,
    batch,
    out,
    lse,
    scale,
    group: tl.constexpr,
    D: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
):
    """One tile of rows of one head."""
    sequence, first = tile_of(batch.tiles)
    if sequence < 0:
        return
    head = tl.program_id(1)
    query0, count = span(batch.cu_queries, sequence)
    key0, length = span(batch.cu_keys, sequence)
    row = first + tl.arange(0, TILE)
    present = row < count
    prefixes = None if batch.prefix is None else batch.prefix + query0
    prefix, own, last = sees(prefixes, row, count, length, group, own_k is not None)
    whole, partly, partial, beyond = stretches(prefix, own, last, present, STEP)
    q_RD = read(q, query0 + first, head, TILE, D, present)
    factor = scale * LOG2_E
    peak_R = tl.full([TILE], float("-inf"), tl.float32)
    sum_R = tl.zeros([TILE], tl.float32)
    out_RD = tl.zeros([TILE, D], tl.float32)

    for masked in tl.static_range(2):
        for block in range(0, partly if masked else whole):
            start = block_start(block, masked, whole, partial, beyond, STEP)
            column = start + tl.arange(0, STEP)
            inside = column < length if masked else None
            k_CD = read(k, key0 + start, head, STEP, D, inside)
            v_CD = read(v, key0 + start, head, STEP, D, inside)
            scores_RC = dot(q_RD, tl.trans(k_CD)) * factor
            if masked:
                seen = is_seen(column[None, :], prefix[:, None], own[:, None], last[:, None])
                scores_RC = tl.where(seen, scores_RC, float("-inf"))
            peak_R, sum_R, out_RD = absorb(peak_R, sum_R, out_RD, scores_RC, v_CD)

    if own_k is not None:
        own_RD = read(own_k, query0 + first, head, TILE, D, present).to(tl.float32)
        score_R = tl.sum(q_RD.to(tl.float32) * own_RD, 1) * factor
        higher_R = tl.maximum(peak_R, score_R)
        share_R, weight_R = tl.exp2(peak_R - higher_R), tl.exp2(score_R - higher_R)
        own_RD = read(own_v, query0 + first, head, TILE, D, present).to(tl.float32)
        out_RD = out_RD * share_R[:, None] + weight_R[:, None] * own_RD
        sum_R = sum_R * share_R + weight_R
        peak_R = higher_R

    sum_R = tl.where(present, sum_R, 1.0)
    write(out, query0 + first, head, present, out_RD / sum_R[:, None])
    index = (query0 + row).to(tl.int64) * tl.num_programs(1) + head
    tl.store(lse + index, (peak_R + tl.log2(sum_R)) * LN_2, mask=present)


@triton.jit
def absorb(peak_R, sum_R, out_RD, scores_RC, v_CD):
    """The running maximum, sum and output with a block of scores more.

    A row that has seen nothing yet has the maximum -inf; 0 in its place keeps its weights 0.
    """
    higher_R = tl.maximum(peak_R, tl.max(scores_RC, 1))
    base_R = tl.where(higher_R == float("-inf"), 0.0, higher_R)
    weights_RC = tl.exp2(scores_RC - base_R[:, None])
    share_R = tl.exp2(peak_R - base_R)
    out_RD = out_RD * share_R[:, None] + dot(weights_RC.to(v_CD.dtype), v_CD)
    return higher_R, sum_R * share_R + tl.sum(weights_RC, 1), out_RD
