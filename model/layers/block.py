# SPDX-License-Identifier: Apache-2.0
"""One transformer block: attention and MLP, each normalised, and each added to the stream.

The halves of a `model.layers.layer.Layer`; which key a query sees is the attention's business
(`kernels.shared_context_attention`, or `model.layers.pointwise_attention`).

Shape suffixes: T tokens, packed; D width of a token; H heads; C head_dim.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.shared_context_attention import Tokens
from model.config import FeedSRConfig
from model.layers.layer import Layer
from model.layers.pointwise_attention import attention_by
from model.layers.residual import make_residual
from model.layers.rope import Rotate


class Attention(nn.Module):
    """Queries, keys and values of packed tokens; query and key are rotated by position.

    Gated, each head's output is multiplied by a sigmoid of its own token, channel by channel: the
    self-gated attention of CADET (arXiv 2602.11410).
    """

    def __init__(self, width: int, heads: int, *, gated: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, width) if gated else None

    def project(self, x_TD: Tensor, rotate: Rotate, *, queries: bool = True) -> Tokens:
        """Query, key and value heads `[T, H, C]`, without queries where nobody asks."""
        query = rotate(self._split(self.query(x_TD))) if queries else None
        key, value = self.key_value(x_TD).chunk(2, -1)
        return Tokens(query, rotate(self._split(key)), self._split(value))

    def join(self, heads_THC: Tensor, gate_TD: Tensor | None = None) -> Tensor:
        """Attention's heads, gated where there is a gate, back to `[T, D]`."""
        joined = heads_THC.flatten(1)
        return self.out(joined if gate_TD is None else joined * gate_TD)

    def _split(self, x_TD: Tensor) -> Tensor:
        return x_TD.unflatten(-1, (self.heads, -1))


class MLP(nn.Module):
    """The block's MLP: GELU, or SwiGLU with two thirds of the hidden width."""

    def __init__(self, width: int, ratio: float, kind: Literal["gelu", "swiglu"]) -> None:
        super().__init__()
        self.gated = kind == "swiglu"
        self.hidden = round(width * ratio * (2 / 3 if self.gated else 1))
        self.up = nn.Linear(width, self.hidden * (2 if self.gated else 1))
        self.down = nn.Linear(self.hidden, width)

    def forward(self, x_TD: Tensor) -> Tensor:
        """`[T, D]` to `[T, D]`."""
        hidden, in_place = self.up(x_TD), not torch.is_grad_enabled()
        if not self.gated:
            return self.down(torch.ops.aten.gelu_(hidden) if in_place else F.gelu(hidden))
        gate, value = hidden.chunk(2, -1)
        return self.down(F.silu(gate, inplace=in_place) * value)


class Block(Layer):
    """A transformer block; its shape, attention, residuals and LayerNorms as configured."""

    def __init__(self, config: FeedSRConfig) -> None:
        super().__init__(config, attention_by(config.attention))
        width = config.width
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, config.heads, gated=config.attention_gate)
        self.attention_add = make_residual(config)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width, config.mlp_ratio, config.mlp)
        self.mlp_add = make_residual(config)
        self.dropout = nn.Dropout(config.dropout)

    def project(
        self, x_TD: Tensor, rotate: Rotate, *, queries: bool = True
    ) -> tuple[Tokens, Tensor | None]:
        """Queries, keys and values, and the gate of the attention where it has one."""
        x = self._before(self.attention_norm, x_TD)
        gate = self.attention.gate if queries else None
        tokens = self.attention.project(x, rotate, queries=queries)
        return tokens, None if gate is None else gate(x).sigmoid()

    def finish(self, x_TD: Tensor, seen_THC: Tensor, gate_TD: Tensor | None) -> Tensor:
        """The attention's branch, then the MLP's."""
        branch = self.dropout(self.attention.join(seen_THC, gate_TD))
        x = self._after(self.attention_norm, self.attention_add(x_TD, branch))
        branch = self.dropout(self.mlp(self._before(self.mlp_norm, x)))
        return self._after(self.mlp_norm, self.mlp_add(x, branch))

    def key_value_layer(self) -> nn.Linear:
        """Keys and values alone."""
        return self.attention.key_value
