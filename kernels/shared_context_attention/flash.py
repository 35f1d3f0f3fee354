# SPDX-License-Identifier: Apache-2.0
"""The exact split on PyTorch's CPU flash attention, forward and backward.

Each tile is one call of the flash operator. The candidates' part merges the self key by
log-sum-exp; its gradient is written out, because the operator's log-sum-exp carries none (see
README, "Traps"). Knows nothing of autograd (`ops.py`) nor of devices without that operator.

With `lse` the log-sum-exp over the context, `s = softmax_scale * q . k_self`:
    merged = logaddexp(lse, s)      out = exp(lse - merged) * out_context + exp(s - merged) * v_self
and the flash backward, given `out` and `merged`, yields exactly the context's share of the
gradient: it needs of the forward only `P = exp(scores - merged)` and `delta = rowsum(grad * out)`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.shared_context_attention.scale import above_zero
from kernels.shared_context_attention.seqlens import SeqlenInfo, Tile

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

Tensors = tuple[Tensor, Tensor, Tensor]


def available(device: str, dtype: torch.dtype) -> bool:
    """Whether there is a flash operator for this device type and dtype."""
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    return device == "cpu" and dtype in dtypes


def context_forward(
    q: Tensor, k: Tensor, v: Tensor, info: SeqlenInfo, scale: float
) -> tuple[Tensor, Tensor]:
    """Context queries over their own sequence: output `[Q, H, D]`, log-sum-exp `[Q, H]`."""
    return flash_forward((q, k, v), info.context_tiles, info, scale)


def context_backward(merged: Tensors, qkv: Tensors, info: SeqlenInfo, scale: float) -> Tensors:
    """Gradients of q, k and v from (output's gradient, output, log-sum-exp)."""
    return flash_backward(qkv, merged, info.context_tiles, info, scale)


def candidate_forward(
    own: Tensors, k: Tensor, v: Tensor, info: SeqlenInfo, scale: float
) -> tuple[Tensor, Tensor]:
    """Candidates over the context of their request and themselves.

    Args:
        own: their q, k_self and v_self, each `[N, H, D]`.
        k, v: the context's, `[M, H, D]`.
        info: who sees whom.
        scale: of the scores.

    Returns:
        output `[N, H, D]`, merged log-sum-exp `[N, H]`.
    """
    q, k_self, v_self = own
    over_context, lse = flash_forward((q, k, v), info.candidate_tiles, info, scale)
    score = _self_scores(q, k_self, scale)
    merged = torch.logaddexp(lse, score)
    share = torch.exp(lse - merged).unsqueeze(-1)
    weight = torch.exp(score - merged).unsqueeze(-1)
    return (share * over_context + weight * v_self).to(q.dtype), merged


def candidate_backward(
    merged: Tensors, own: Tensors, kv: tuple[Tensor, Tensor], info: SeqlenInfo, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k_self, v_self and the context's k and v."""
    grad, out, lse = merged
    q, k_self, v_self = own
    grad_q, grad_k, grad_v = flash_backward((q, *kv), merged, info.candidate_tiles, info, scale)
    weight = torch.exp(_self_scores(q, k_self, scale) - lse)
    wide = grad.to(lse.dtype)
    delta = (wide * (v_self.to(lse.dtype) - out)).sum(-1)
    grad_score = (weight * delta * scale).unsqueeze(-1)
    grad_q = (grad_q + grad_score * k_self).to(q.dtype)
    grad_k_self = (grad_score * q).to(q.dtype)
    grad_v_self = (weight.unsqueeze(-1) * wide).to(q.dtype)
    return grad_q, grad_k_self, grad_v_self, grad_k, grad_v


def flash_forward(
    qkv: Tensors, tiles: list[Tile], info: SeqlenInfo, scale: float
) -> tuple[Tensor, Tensor]:
    """Output `[rows, H, D]` and log-sum-exp `[rows, H]`; rows of no tile get 0 and -inf."""
    q, k, v = qkv
    q, scale, _ = above_zero(q, scale)
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
    q, scale, factor = above_zero(q, scale)
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
    grad_q = grad_q if factor == 1.0 else factor * grad_q
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
