# SPDX-License-Identifier: Apache-2.0
"""The exact split on PyTorch's CPU flash attention, forward and backward.

Each tile is one call of the flash operator. The candidates' part merges the self key by
log-sum-exp; its gradient is written out, because the operator's log-sum-exp carries none (see
README, "Traps"). Knows nothing of devices without that operator.

With `lse` the log-sum-exp over the context, `s = softmax_scale * q . k_self`:
    merged = logaddexp(lse, s)      out = exp(lse - merged) * out_context + exp(s - merged) * v_self
and the flash backward, given `out` and `merged`, yields exactly the context's share of the
gradient: it needs of the forward only `P = exp(scores - merged)` and `delta = rowsum(grad * out)`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.shared_context_attention.seqlens import SeqlenInfo, Tile

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

Tensors = tuple[Tensor, Tensor, Tensor]


def available(device: str, dtype: torch.dtype) -> bool:
    """Whether there is a flash operator for this device type and dtype."""
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    return device == "cpu" and dtype in dtypes


class ContextAttention(torch.autograd.Function):
    """Context tokens over their own sequence: `apply(q, k, v, info, scale)`, each `[M, H, D]`."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, info: SeqlenInfo, scale: float
    ) -> Tensor:
        """`[M, H, D]`; keeps q, k, v, the output and its log-sum-exp, never a score."""
        out, lse = flash_forward((q, k, v), info.context_tiles, info, scale)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.info, ctx.scale = info, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k and v."""
        q, k, v, out, lse = ctx.saved_tensors
        info: SeqlenInfo = ctx.info
        merged = (grads[0].contiguous(), out, lse)
        grad_q, grad_k, grad_v = flash_backward(
            (q, k, v), merged, info.context_tiles, info, ctx.scale
        )
        return grad_q, grad_k, grad_v, None, None


class CandidateAttention(torch.autograd.Function):
    """Candidates over the context of their request and themselves.

    `apply(q, k_self, v_self, k, v, info, scale)`: the first three `[N, H, D]`, `k` and `v` of the
    context `[M, H, D]`.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k_self: Tensor, v_self: Tensor, *rest: Any) -> Tensor:
        """`[N, H, D]`."""
        k, v, info, scale = rest
        over_context, lse = flash_forward((q, k, v), info.candidate_tiles, info, scale)
        own = _self_scores(q, k_self, scale)
        merged = torch.logaddexp(lse, own)
        share = torch.exp(lse - merged).unsqueeze(-1)
        weight = torch.exp(own - merged).unsqueeze(-1)
        out = (share * over_context + weight * v_self).to(q.dtype)
        ctx.save_for_backward(q, k_self, v_self, k, v, out, merged)
        ctx.info, ctx.scale = info, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k_self, v_self, k and v."""
        q, k_self, v_self, k, v, out, merged = ctx.saved_tensors
        info, scale = ctx.info, ctx.scale
        grad = grads[0].contiguous()
        grad_q, grad_k, grad_v = flash_backward(
            (q, k, v), (grad, out, merged), info.candidate_tiles, info, scale
        )
        weight = torch.exp(_self_scores(q, k_self, scale) - merged)
        wide = grad.to(merged.dtype)
        delta = (wide * (v_self.to(merged.dtype) - out)).sum(-1)
        grad_score = (weight * delta * scale).unsqueeze(-1)
        grad_q = (grad_q + grad_score * k_self).to(q.dtype)
        grad_k_self = (grad_score * q).to(q.dtype)
        grad_v_self = (weight.unsqueeze(-1) * wide).to(q.dtype)
        return grad_q, grad_k_self, grad_v_self, grad_k, grad_v, None, None


def flash_forward(
    qkv: Tensors, tiles: list[Tile], info: SeqlenInfo, scale: float
) -> tuple[Tensor, Tensor]:
    """Output `[rows, H, D]` and log-sum-exp `[rows, H]`; rows of no tile get 0 and -inf."""
    q, k, v = qkv
    wide = torch.promote_types(q.dtype, torch.float32)
    out = torch.empty(q.shape, dtype=q.dtype)
    lse = torch.empty(q.shape[:2], dtype=wide)
    done = 0
    for tile in tiles:
        _blank(out, lse, slice(done, tile.rows.start))
        done = tile.rows.stop
        out_RHD, lse_RH = _forward(
            _heads_first(q, tile.rows),
            _heads_first(k, tile.keys),
            _heads_first(v, tile.keys),
            0.0,
            tile.masked == "causal",
            attn_mask=info.mask(tile, q.dtype),
            scale=scale,
        )
        out[tile.rows] = out_RHD[0].transpose(0, 1)
        lse[tile.rows] = lse_RH[0].transpose(0, 1)
    _blank(out, lse, slice(done, len(q)))
    return out, lse


def flash_backward(
    qkv: Tensors, merged: Tensors, tiles: list[Tile], info: SeqlenInfo, scale: float
) -> Tensors:
    """Gradients of q, k, v from `merged`: (output's gradient, output, log-sum-exp), all by row."""
    q, k, v = qkv
    grad, out, lse = merged
    wide = torch.promote_types(q.dtype, torch.float32)
    grad_q = torch.zeros(q.shape, dtype=q.dtype)
    grad_k, grad_v = torch.zeros(k.shape, dtype=wide), torch.zeros(v.shape, dtype=wide)
    lse_HR = lse.transpose(0, 1).contiguous()
    for tile in tiles:
        dq, dk, dv = _backward(
            *(_heads_first(x, tile.rows) for x in (grad, q)),
            *(_heads_first(x, tile.keys) for x in (k, v)),
            _heads_first(out, tile.rows),
            lse_HR[None, :, tile.rows],
            0.0,
            tile.masked == "causal",
            attn_mask=info.mask(tile, q.dtype),
            scale=scale,
        )
        grad_q[tile.rows] = dq[0].transpose(0, 1)
        grad_k[tile.keys] += dk[0].transpose(0, 1)
        grad_v[tile.keys] += dv[0].transpose(0, 1)
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)


def _heads_first(packed: Tensor, rows: slice) -> Tensor:
    """Rows of `[tokens, H, D]` as the `[1, H, rows, D]` view the operator takes."""
    return packed[rows].transpose(0, 1).unsqueeze(0)


def _self_scores(q: Tensor, k_self: Tensor, scale: float) -> Tensor:
    """`[N, H]`, each candidate's score with its own key, in at least float32."""
    wide = torch.promote_types(q.dtype, torch.float32)
    return (q.to(wide) * k_self).sum(-1) * scale


def _blank(out: Tensor, lse: Tensor, rows: slice) -> None:
    """Rows that see no context: an empty sum, so their merge leaves the self key alone."""
    out[rows] = 0.0
    lse[rows] = -torch.inf
