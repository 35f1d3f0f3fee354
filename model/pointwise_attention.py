# SPDX-License-Identifier: Apache-2.0
"""Attention without a softmax: an activation of each score, divided by how many keys are seen.

Who sees whom is `SeqlenInfo`'s business, as for the softmax kernel, whose signature this shares.
Scores live one tile at a time; the backward computes them again. Knows nothing of models.

The paper on Feed-SR (arXiv 2602.12354) compares SiLU, ReLU and sigmoid; SiLU is HSTU's
(arXiv 2402.17152, section 3). Shape suffixes: M context tokens; Q those with a query; N candidates;
R rows and C keys of one tile; H heads; D head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.shared_context_attention import SeqlenInfo, Tokens, shared_context_attention
from kernels.shared_context_attention.seqlens import TILE_ROWS, Tile

Activation = Literal["silu", "relu", "sigmoid"]
Attend = Callable[[Tokens, Tokens | None, SeqlenInfo], tuple[Tensor | None, Tensor | None]]
"""Attention of the context and of the candidates that share it: see `shared_context_attention`."""

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
}


def attention_by(name: Literal["softmax"] | Activation) -> Attend:
    """The attention of a configuration's name."""
    if name == "softmax":
        return shared_context_attention
    return partial(pointwise_attention, activation=name)


def pointwise_attention(
    context: Tokens,
    candidates: Tokens | None,
    info: SeqlenInfo,
    *,
    activation: Activation,
    softmax_scale: float | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """`sum over the keys seen of activation(q . k * softmax_scale) v, / how many are seen`.

    Args:
        context: k and v `[M, H, D]`; q `[Q, H, D]`, or None where nobody asks.
        candidates: `[N, H, D]`, `q` included; each sees the context of its request, and itself.
        info: who sees whom.
        activation: of each score.
        softmax_scale: factor of the scores, by the kernel's name; None is `1 / sqrt(head_dim)`.

    Returns:
        (out_context `[Q, H, D]` or None, out_candidates `[N, H, D]` or None), in the dtype of the
        inputs; differentiable once.
    """
    scale = 1.0 / math.sqrt(context.k.shape[-1]) if softmax_scale is None else softmax_scale
    plan = _Plan(info, activation, scale)
    out = out_N = None
    if context.q is not None:
        seen_Q = info.prefix_Q + info.position_Q - info.own_Q + 1
        tiles = _cut(info.context_tiles)
        out = _divided(_sum(context.q, context.k, context.v, tiles, plan), seen_Q)
    if candidates is not None:
        assert candidates.q is not None
        over_context = _sum(candidates.q, context.k, context.v, _cut(info.candidate_tiles), plan)
        own_NH = plan.weights((candidates.q * candidates.k).sum(-1))
        out_N = _divided(over_context + own_NH.unsqueeze(-1) * candidates.v, _seen_N(info))
    return out, out_N


@dataclass(frozen=True)
class _Plan:
    """What a tile's products become."""

    info: SeqlenInfo
    activation: Activation
    scale: float

    def weights(self, product: Tensor) -> Tensor:
        """The weights of products q . k."""
        return ACTIVATIONS[self.activation](product * self.scale)

    def slope(self, product: Tensor) -> Tensor:
        """The derivative of `weights`."""
        score = product * self.scale
        if self.activation == "relu":
            return (score > 0).to(score.dtype) * self.scale
        s = score.sigmoid()
        rise = s * (1 - s)
        return (s + score * rise if self.activation == "silu" else rise) * self.scale

    def hidden_RC(self, tile: Tile, like: Tensor) -> Tensor | None:
        """bool `[R, C]`, which keys a row of the tile does not see; None where it sees all."""
        mask = self.info.mask(tile, like.dtype)
        if mask is not None:
            return mask[0, 0] != 0
        if tile.masked == "none":
            return None
        rows, keys = (x.stop - x.start for x in (tile.rows, tile.keys))
        every = torch.ones(rows, keys, dtype=torch.bool, device=like.device)
        return every.triu(keys - rows + 1)


class _TiledSum(torch.autograd.Function):
    """The weighted sums of values `[rows, H, D]`; rows of no tile are zero."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, tiles: list[Tile], plan: _Plan
    ) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.tiles, ctx.plan = tiles, plan
        out = torch.zeros_like(q)
        for tile in tiles:
            product_HRC = _heads(q, tile.rows) @ _heads(k, tile.keys).mT
            weights_HRC = _seen(plan.weights(product_HRC), plan.hidden_RC(tile, q))
            out[tile.rows] = (weights_HRC @ _heads(v, tile.keys)).transpose(0, 1)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v = ctx.saved_tensors
        plan: _Plan = ctx.plan
        wide = torch.promote_types(k.dtype, torch.float32)
        grad_q = torch.zeros_like(q)
        grad_k, grad_v = torch.zeros_like(k, dtype=wide), torch.zeros_like(v, dtype=wide)
        for tile in ctx.tiles:
            q_HRD, grad_HRD = _heads(q, tile.rows), _heads(grad, tile.rows)
            k_HCD, v_HCD = _heads(k, tile.keys), _heads(v, tile.keys)
            product_HRC, hidden_RC = q_HRD @ k_HCD.mT, plan.hidden_RC(tile, q)
            weights_HRC = _seen(plan.weights(product_HRC), hidden_RC)
            change_HRC = _seen(grad_HRD @ v_HCD.mT * plan.slope(product_HRC), hidden_RC)
            grad_q[tile.rows] = (change_HRC @ k_HCD).transpose(0, 1)
            grad_k[tile.keys] += (change_HRC.mT @ q_HRD).transpose(0, 1)
            grad_v[tile.keys] += (weights_HRC.mT @ grad_HRD).transpose(0, 1)
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), None, None


def _sum(q: Tensor, k: Tensor, v: Tensor, tiles: list[Tile], plan: _Plan) -> Tensor:
    out = _TiledSum.apply(q, k, v, tiles, plan)
    assert isinstance(out, Tensor)
    return out


def _cut(tiles: list[Tile]) -> list[Tile]:
    """Tiles of at most TILE_ROWS rows; of a causal one, without the keys that no row sees."""
    cut = []
    for tile in tiles:
        for start in range(tile.rows.start, tile.rows.stop, TILE_ROWS):
            rows, keys = slice(start, min(start + TILE_ROWS, tile.rows.stop)), tile.keys
            if tile.masked == "causal":
                keys = slice(keys.start, keys.start + rows.stop - tile.rows.start)
            cut.append(Tile(rows, keys, tile.masked))
    return cut


def _seen(x_HRC: Tensor, hidden_RC: Tensor | None) -> Tensor:
    return x_HRC if hidden_RC is None else x_HRC.masked_fill_(hidden_RC, 0.0)


def _heads(packed: Tensor, rows: slice) -> Tensor:
    """Rows of `[tokens, H, D]` as `[H, rows, D]`."""
    return packed[rows].transpose(0, 1)


def _seen_N(info: SeqlenInfo) -> Tensor:
    """How many keys each candidate sees: its request's context and itself."""
    assert info.cu_candidates is not None
    counts_S = info.cu_candidates.diff()
    return (info.cu_seqlens.diff() + 1).repeat_interleave(counts_S, output_size=info.num_candidates)


def _divided(total: Tensor, seen: Tensor) -> Tensor:
    return total / seen[:, None, None].to(total.dtype)
