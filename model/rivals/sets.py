# SPDX-License-Identifier: Apache-2.0
"""Attention inside sets of any size, packed: every member of a set sees the set, in no order.

Sets of like size are computed together, so that padding at most doubles the rows. Knows rows and
which set each is of; not what a set is.

Shape suffixes: N rows of all sets; G sets of one part; L rows of its largest set; H heads; D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers.block import MLP
from model.layers.residual import GatedAdd


@dataclass(frozen=True, kw_only=True)
class Sets:
    """Which rows attend to each other: made once a batch, used by every layer.

    Attributes:
        parts: int64 `[G, L]`, the rows of sets of like size, and bool `[G, L]`, which of them are
            there.
        back_N: int64, where each row's output is among the outputs of all parts.
    """

    parts: list[tuple[Tensor, Tensor]]
    back_N: Tensor

    @classmethod
    def grouped(cls, set_N: Tensor) -> Sets:
        """From int64 `[N]`, equal for rows of the same set."""
        order_N = set_N.argsort(stable=True)
        _, count = set_N[order_N].unique_consecutive(return_counts=True)
        start = count.cumsum(0) - count
        size = count.double().log2().ceil().long()
        parts = []
        for value in size.unique().tolist():
            start_G, count_G = start[size == value], count[size == value]
            offset_L = torch.arange(int(count_G.max()), device=set_N.device)
            present_GL = offset_L < count_G[:, None]
            place_GL = torch.where(present_GL, start_G[:, None] + offset_L, start_G[:, None])
            parts.append((order_N[place_GL], present_GL))
        rows_N = torch.cat([set_N.new_zeros(0), *(rows[present] for rows, present in parts)])
        return cls(parts=parts, back_N=rows_N.argsort())


class SetLayer(nn.Module):
    """A pre-LayerNorm layer in which the rows of a set attend to each other.

    A learned gate of every entry scales what a branch may add, in the place of further
    normalisation (LiGR, arXiv 2502.03417, section 3).
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.attention_add = GatedAdd(width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width, mlp_ratio, "gelu")
        self.mlp_add = GatedAdd(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_ND: Tensor, sets: Sets) -> Tensor:
        """`[N, D]` to `[N, D]`."""
        seen_ND = self.out(self._attend(self.attention_norm(x_ND), sets))
        x_ND = self.attention_add(x_ND, self.dropout(seen_ND))
        return self.mlp_add(x_ND, self.dropout(self.mlp(self.mlp_norm(x_ND))))

    def _attend(self, x_ND: Tensor, sets: Sets) -> Tensor:
        heads_N = self.query_key_value(x_ND).unflatten(-1, (3, self.heads, -1))
        outs = [heads_N[:0, 0].flatten(1)]
        for rows_GL, present_GL in sets.parts:
            query, key, value = heads_N[rows_GL].transpose(1, 3).unbind(2)
            mask = present_GL[:, None, None]
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            outs.append(attended.transpose(1, 2).flatten(2)[present_GL])
        return torch.cat(outs)[sets.back_N]
