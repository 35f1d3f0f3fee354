# SPDX-License-Identifier: Apache-2.0
"""One transformer block: pre-LayerNorm attention and MLP, each rescaled and added to the stream.

Knows tokens and where they sit; not what they mean. Which key a query sees is the kernel's business
(`kernels.shared_context_attention`). Where no gradient is wanted, the stream that a block gets is
updated in place: fresh memory in every layer costs more than the sums do.

Shape suffixes: T context tokens, packed; N candidate tokens, packed; Q chosen tokens; D width of a
token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.shared_context_attention import SeqlenInfo, Tokens, shared_context_attention
from model.rope import Rotation

Extend = Callable[[Tokens], Tokens]
"""New context tokens to the same queries over all keys and values, the remembered ones first."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the tokens of a batch sit: made once, used by every layer."""

    info: SeqlenInfo
    context: Rotation
    candidates: Rotation | None = None


class RescaleAndAdd(nn.Module):
    """`x + scale * branch` with one learned scale."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(initial))

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """Adds a branch to the stream, both `[..., D]`; in place where no gradient is wanted."""
        if torch.is_grad_enabled():
            return x + self.scale * branch
        return x.addcmul_(self.scale, branch)


class Attention(nn.Module):
    """Queries, keys and values of packed tokens; query and key are rotated by position."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def project(self, x_TD: Tensor, rotation: Rotation, *, queries: bool = True) -> Tokens:
        """Query, key and value heads `[T, heads, head_dim]`, without queries where nobody asks."""
        query = rotation(self._split(self.query(x_TD))) if queries else None
        key, value = self.key_value(x_TD).chunk(2, -1)
        return Tokens(query, rotation(self._split(key)), self._split(value))

    def join(self, heads_THC: Tensor) -> Tensor:
        """Attention's heads back to `[T, D]`."""
        return self.out(heads_THC.flatten(1))

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


class Block(nn.Module):
    """A pre-LayerNorm block over a context and, beside it, candidates that share it."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        mlp: Literal["gelu", "swiglu"],
        mlp_ratio: float,
        residual_scale: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.attention_add = RescaleAndAdd(residual_scale)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width, mlp_ratio, mlp)
        self.mlp_add = RescaleAndAdd(residual_scale)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        context_TD: Tensor,
        candidates_ND: Tensor | None,
        placement: Placement,
        extend: Extend | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The next context and candidates."""
        context = self._project(context_TD, placement.context)
        if extend is not None:
            context = extend(context)
        candidates = self._project_candidates(candidates_ND, placement)
        seen, seen_N = shared_context_attention(context, candidates, placement.info)
        assert seen is not None
        after = self._finish(context_TD, seen)
        return after, None if candidates_ND is None else self._finish(candidates_ND, seen_N)

    def forward_rows(self, context_TD: Tensor, rows_Q: Tensor, placement: Placement) -> Tensor:
        """The next state of chosen context tokens `[Q, D]`: the last layer of `forward`."""
        context = self._project(context_TD, placement.context)
        seen, _ = shared_context_attention(context, None, placement.info)
        assert seen is not None
        return self._finish(context_TD[rows_Q], seen[rows_Q])

    def forward_candidates(
        self,
        context_TD: Tensor,
        candidates_ND: Tensor,
        placement: Placement,
        extend: Extend | None = None,
    ) -> Tensor:
        """The next candidates alone, the last layer of `rank`: the context gives K and V only."""
        norm = self.attention_norm(context_TD)
        context = self.attention.project(norm, placement.context, queries=False)
        if extend is not None:
            context = extend(context)
        candidates = self._project_candidates(candidates_ND, placement)
        _, seen = shared_context_attention(context, candidates, placement.info)
        return self._finish(candidates_ND, seen)

    def _project(self, x_TD: Tensor, rotation: Rotation) -> Tokens:
        return self.attention.project(self.attention_norm(x_TD), rotation)

    def _project_candidates(
        self, candidates_ND: Tensor | None, placement: Placement
    ) -> Tokens | None:
        if candidates_ND is None:
            return None
        assert placement.candidates is not None
        return self._project(candidates_ND, placement.candidates)

    def _finish(self, x_TD: Tensor, heads_THC: Tensor | None) -> Tensor:
        assert heads_THC is not None
        x = self.attention_add(x_TD, self.dropout(self.attention.join(heads_THC)))
        return self.mlp_add(x, self.dropout(self.mlp(self.mlp_norm(x))))
