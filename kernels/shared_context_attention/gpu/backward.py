# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-def"
"""The backward in Triton: two kernels, by queries and by keys, without atomics.

Both compute the weights again, `P = exp(s - lse)`, and `dS = P * (g . v - delta)`, where delta is
`g . out` less the gradient of the log-sum-exp. The first has a tile of queries and gives delta, dq
and a candidate's own gradients; the second has a tile of keys and gives dk and dv.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.shared_context_attention.gpu.blocks import (
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
from kernels.shared_context_attention.gpu.forward import Offsets
from kernels.shared_context_attention.gpu.tiles import blocks, tiles

Merged = tuple[Tensor, Tensor | None, Tensor, Tensor]
"""Gradients of output and log-sum-exp (None is zero), output, log-sum-exp."""


def backward(
    merged: Merged,
    q: Tensor,
    kv: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor] | None,
    offsets: Offsets,
    visible: tuple[Tensor | None, int],
    scale: float,
) -> tuple[Tensor, ...]:
    """Gradients of q, own if present is one, k and v; arguments as of `forward`."""
    grad, grad_lse, out, lse = merged
    grad_lse = None if grad_lse is None else grad_lse.contiguous()
    merged = (grad if grad.stride(-1) == 1 else grad.contiguous(), grad_lse, out, lse)
    delta = torch.empty_like(lse)
    grad_q, *grad_own = (q.new_empty(x.shape) for x in (q, *(own or ())))
    grad_kv = [x.new_empty(x.shape) for x in kv]
    common = (q, kv, offsets, visible, scale)
    with torch.cuda.device_of(q):
        _by_queries(merged, delta, own, (grad_q, *grad_own), *common)
        _by_keys(merged, delta, own is not None, grad_kv, *common)
    return grad_q, *grad_own, *grad_kv


def _by_queries(merged, delta, own, grads, q, kv, offsets, visible, scale) -> None:
    grad, grad_lse, out, lse = merged
    size = blocks("queries", q.dtype, q.shape[2])
    batch = Batch(offsets[0], offsets[1], visible[0], tiles(offsets[0], len(q), size.tile))
    none = (None, None)
    differentiate_queries[(len(batch.tiles), q.shape[1])](
        *map(heads, (grad, out, q, *kv)),
        *(none if own is None else map(heads, own)),
        heads(grads[0]),
        *(none if own is None else map(heads, grads[1:])),
        batch,
        grad_lse,
        lse,
        delta,
        scale,
        visible[1],
        q.shape[2],
        size.tile,
        size.step,
        num_warps=size.warps,
        num_stages=size.stages,
    )


def _by_keys(merged, delta, candidates, grads, q, kv, offsets, visible, scale) -> None:
    size = blocks("keys", q.dtype, q.shape[2])
    batch = Batch(offsets[0], offsets[1], visible[0], tiles(offsets[1], len(kv[0]), size.tile))
    differentiate_keys[(len(batch.tiles), q.shape[1])](
        *map(heads, (merged[0], q, *kv, *grads)),
        batch,
        merged[3],
        delta,
        scale,
        visible[1],
        candidates,
        q.shape[2],
        size.tile,
        size.step,
        num_warps=size.warps,
        num_stages=size.stages,
    )


@triton.jit
def differentiate_queries(
    grad,
    out,
    q,
    k,
    v,
    own_k,
    own_v,
    grad_q,
    grad_own_k,
    grad_own_v,
    batch,
    grad_lse,
    lse,
    delta,
    scale,
    group: tl.constexpr,
    D: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
):
    """One tile of query rows of one head: delta, dq, and of candidates dk_self and dv_self."""
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
    grad_RD = read(grad, query0 + first, head, TILE, D, present)
    out_RD = read(out, query0 + first, head, TILE, D, present).to(tl.float32)
    delta_R = tl.sum(grad_RD.to(tl.float32) * out_RD, 1)
    index = (query0 + row).to(tl.int64) * tl.num_programs(1) + head
    if grad_lse is not None:
        delta_R -= tl.load(grad_lse + index, mask=present, other=0.0)
    tl.store(delta + index, delta_R, mask=present)
    lse_R = tl.load(lse + index, mask=present, other=float("inf")) * LOG2_E
    factor = scale * LOG2_E
    grad_q_RD = tl.zeros([TILE, D], tl.float32)

    for masked in tl.static_range(2):
        for block in range(0, partly if masked else whole):
            start = block_start(block, masked, whole, partial, beyond, STEP)
            column = start + tl.arange(0, STEP)
            inside = column < length if masked else None
            k_CD = read(k, key0 + start, head, STEP, D, inside)
            v_CD = read(v, key0 + start, head, STEP, D, inside)
            weights_RC = tl.exp2(dot(q_RD, tl.trans(k_CD)) * factor - lse_R[:, None])
            if masked:
                seen = is_seen(column[None, :], prefix[:, None], own[:, None], last[:, None])
                weights_RC = tl.where(seen, weights_RC, 0.0)
            grad_s_RC = weights_RC * (dot(grad_RD, tl.trans(v_CD)) - delta_R[:, None])
            grad_q_RD += dot(grad_s_RC.to(k_CD.dtype), k_CD)

    if own_k is not None:
        q_RD = q_RD.to(tl.float32)
        grad_RD = grad_RD.to(tl.float32)
        k_RD = read(own_k, query0 + first, head, TILE, D, present).to(tl.float32)
        v_RD = read(own_v, query0 + first, head, TILE, D, present).to(tl.float32)
        weight_R = tl.exp2(tl.sum(q_RD * k_RD, 1) * factor - lse_R)
        grad_s_R = weight_R * (tl.sum(grad_RD * v_RD, 1) - delta_R)
        grad_q_RD += grad_s_R[:, None] * k_RD
        write(grad_own_k, query0 + first, head, present, grad_s_R[:, None] * q_RD * scale)
        write(grad_own_v, query0 + first, head, present, weight_R[:, None] * grad_RD)

    write(grad_q, query0 + first, head, present, grad_q_RD * scale)


@triton.jit
def differentiate_keys(
    grad,
    q,
    k,
    v,
    grad_k,
    grad_v,
    batch,
    lse,
    delta,
    scale,
    group: tl.constexpr,
    CANDIDATES: tl.constexpr,
    D: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
):
    """One tile of keys of one head: dk and dv, over the rows that may see them.

    A row that is not present has the log-sum-exp inf, hence no weight.
    """
    sequence, first = tile_of(batch.tiles)
    if sequence < 0:
        return
    head = tl.program_id(1)
    query0, count = span(batch.cu_queries, sequence)
    key0, length = span(batch.cu_keys, sequence)
    prefixes = None if batch.prefix is None else batch.prefix + query0
    column = first + tl.arange(0, TILE)
    present = column < length
    k_CD = read(k, key0 + first, head, TILE, D, present)
    v_CD = read(v, key0 + first, head, TILE, D, present)
    factor = scale * LOG2_E
    grad_k_CD = tl.zeros([TILE, D], tl.float32)
    grad_v_CD = tl.zeros([TILE, D], tl.float32)
    begin, middle = first_rows(prefixes, first, count, length, group, CANDIDATES, TILE, STEP)

    for whole in tl.static_range(2):
        for start in range(middle if whole else begin, count if whole else middle, STEP):
            row = start + tl.arange(0, STEP)
            index = (query0 + row).to(tl.int64) * tl.num_programs(1) + head
            lse_R = tl.load(lse + index, mask=row < count, other=float("inf")) * LOG2_E
            delta_R = tl.load(delta + index, mask=row < count, other=0.0)
            q_RD = read(q, query0 + start, head, STEP, D, row < count)
            grad_RD = read(grad, query0 + start, head, STEP, D, row < count)
            weights_CR = tl.exp2(dot(k_CD, tl.trans(q_RD)) * factor - lse_R[None, :])
            if not whole:
                prefix, own, last = sees(prefixes, row, count, length, group, CANDIDATES)
                seen = is_seen(column[:, None], prefix[None, :], own[None, :], last[None, :])
                weights_CR = tl.where(seen, weights_CR, 0.0)
            grad_v_CD += dot(weights_CR.to(grad_RD.dtype), grad_RD)
            grad_s_CR = weights_CR * (dot(v_CD, tl.trans(grad_RD)) - delta_R[None, :])
            grad_k_CD += dot(grad_s_CR.to(q_RD.dtype), q_RD)

    write(grad_k, key0 + first, head, present, grad_k_CD * scale)
    write(grad_v, key0 + first, head, present, grad_v_CD)


@triton.jit
def first_rows(
    prefixes,
    first,
    count,
    length,
    group: tl.constexpr,
    CANDIDATES: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
):
    """The first row that may see a key of the tile, and the first from which on all see all.

    Both are whole steps.
    """
    begin = tl.maximum(first - (length - count), 0) // STEP * STEP
    if CANDIDATES:
        begin = begin * 0
        middle = begin
    elif prefixes is not None:
        middle = tl.cdiv(count, STEP) * STEP
    else:
        after = tl.cdiv(first + TILE, group) * group - (length - count)
        middle = tl.cdiv(tl.maximum(tl.minimum(after, count), 0), STEP) * STEP
    return begin, tl.maximum(begin, middle)
