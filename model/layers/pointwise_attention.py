# SPDX-License-Identifier: Apache-2.0
"""Attention without a softmax: an activation of each score, divided.

The divisor is how many keys are seen, or one number. Who sees whom is `SeqlenInfo`'s business, as
for the softmax kernel, whose signature this shares. Scores live one tile at a time; the backward
computes them again. Knows nothing of models.

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
from kernels.shared_context_attention.scale import check_scale
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
    divisor: int | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """`sum over the keys seen of activation(q . k * softmax_scale) v, / divisor`.

    Args:
        context: k and v `[M, H, D]`; q `[Q, H, D]`, or None where nobody asks.
        candidates: `[N, H, D]`, `q` included; each sees the context of its request, and itself.
        info: who sees whom.
        activation: of each score.
        softmax_scale: factor of the scores, by the kernel's name, any finite number; None is
            `1 / sqrt(head_dim)`.
        divisor: of every row's sum; None is how many keys the row sees, each its own.

    Returns:
        (out_context `[Q, H, D]` or None, out_candidates `[N, H, D]` or None), in the dtype of the
        inputs; differentiable once.

    Raises:
        ValueError: a softmax_scale that is NaN or infinite.
    """
    scale = 1.0 / math.sqrt(context.k.shape[-1]) if softmax_scale is None else softmax_scale
    check_scale(scale, context.k.dtype)
    out = out_N = None
    if context.q is not None:
        seen_Q = info.prefix_Q + info.position_Q - info.own_Q + 1
        divisor_Q = seen_Q if divisor is None else torch.full_like(seen_Q, divisor)
        plan = _Plan(info, _cut(info.context_tiles), activation, scale, divisor_Q)
        out = _weighted(context.q, context.k, context.v, plan)
    if candidates is not None:
        seen_N = _seen_N(info)
        divisor_N = seen_N if divisor is None else torch.full_like(seen_N, divisor)
        plan = _Plan(info, _cut(info.candidate_tiles), activation, scale, divisor_N)
        out_N = _candidates(candidates, context, plan)
    return out, out_N


@dataclass(frozen=True)
class _Plan:
    """Which tiles there are, and what their products become; in at least float32, like a softmax.

    `divisor_R` is what each row's weights are divided by.
    """

    info: SeqlenInfo
    tiles: list[Tile]
    activation: Activation
    scale: float
    divisor_R: Tensor

    def weights(self, product: Tensor, tile: Tile) -> Tensor:
        """The weights `[H, R, C]` of a tile's products q . k."""
        weights_HRC = self.activated(product) / self.divisor_R[tile.rows, None]
        return self._hidden(weights_HRC, tile)

    def slope(self, product: Tensor, tile: Tile) -> Tensor:
        """The derivative of `weights` by the product."""
        score = _wide(product) * self.scale
        if self.activation == "relu":
            slope = (score > 0).to(score.dtype)
        else:
            s = score.sigmoid()
            slope = s * (1 - s)
            slope = s + score * slope if self.activation == "silu" else slope
        return self._hidden(slope * self.scale / self.divisor_R[tile.rows, None], tile)

    def activated(self, product: Tensor) -> Tensor:
        """The activation of scaled products."""
        return ACTIVATIONS[self.activation](_wide(product) * self.scale)

    def _hidden(self, x_HRC: Tensor, tile: Tile) -> Tensor:
        """Zero where a row of the tile does not see the key."""
        if tile.masked == "none":
            return x_HRC
        mask = self.info.mask(tile, x_HRC.dtype)
        if mask is not None:
            return x_HRC.masked_fill_(mask[0] != 0, 0.0)
        rows, keys = x_HRC.shape[1:]
        return x_HRC.tril_(keys - rows)


class _Weighted(torch.autograd.Function):
    """The weighted values `[R, H, D]` of all tiles; rows of no tile are zero."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: _Plan) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.plan = plan
        out = torch.zeros_like(q)
        for tile in plan.tiles:
            product_HRC = _heads(q, tile.rows) @ _heads(k, tile.keys).mT
            weights_HRC = plan.weights(product_HRC, tile).to(v.dtype)
            out[tile.rows] = (weights_HRC @ _heads(v, tile.keys)).transpose(0, 1)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v = ctx.saved_tensors
        plan: _Plan = ctx.plan
        grad_q = torch.zeros_like(q)
        grad_k, grad_v = torch.zeros_like(_wide(k)), torch.zeros_like(_wide(v))
        for tile in plan.tiles:
            q_HRD, grad_HRD = _heads(q, tile.rows), _heads(grad, tile.rows)
            k_HCD, v_HCD = _heads(k, tile.keys), _heads(v, tile.keys)
            product_HRC = q_HRD @ k_HCD.mT
            weights_HRC = plan.weights(product_HRC, tile).to(v.dtype)
            change_HRC = plan.slope(product_HRC, tile).mul_(grad_HRD @ v_HCD.mT).to(k.dtype)
            grad_q[tile.rows] = (change_HRC @ k_HCD).transpose(0, 1)
            grad_k[tile.keys] += (change_HRC.mT @ q_HRD).transpose(0, 1)
            grad_v[tile.keys] += (weights_HRC.mT @ grad_HRD).transpose(0, 1)
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), None


def _weighted(q: Tensor, k: Tensor, v: Tensor, plan: _Plan) -> Tensor:
    out = _Weighted.apply(q, k, v, plan)
    assert isinstance(out, Tensor)
    return out


def _candidates(candidates: Tokens, context: Tokens, plan: _Plan) -> Tensor:
    """Candidates over the context of their request, and over themselves."""
    q = candidates.q
    assert q is not None
    over_context = _weighted(q, context.k, context.v, plan)
    own_NH = plan.activated((_wide(q) * candidates.k).sum(-1)) / plan.divisor_R[:, None]
    return (over_context + own_NH.unsqueeze(-1) * candidates.v).to(q.dtype)


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


def _heads(packed: Tensor, rows: slice) -> Tensor:
    """Rows of `[tokens, H, D]` as `[H, rows, D]`."""
    return packed[rows].transpose(0, 1)


def _seen_N(info: SeqlenInfo) -> Tensor:
    """How many keys each candidate sees: its request's context and itself."""
    assert info.cu_candidates is not None
    counts_S = info.cu_candidates.diff()
    return (info.cu_seqlens.diff() + 1).repeat_interleave(counts_S, output_size=info.num_candidates)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
