# SPDX-License-Identifier: Apache-2.0
"""What every layer is to the stack: three forms of one computation, in two halves.

A layer projects its input to queries, keys and values, attends, and finishes what it attended to.
The forms differ in which tokens go through which half, so a new layer writes the halves alone.
Knows tokens and where they sit; not what they mean. Where no gradient is wanted, the stream that a
layer gets is updated in place: fresh memory in every layer costs more than the sums do. What was
projected is let go before the second half, which is the wider one.

Shape suffixes: T context tokens, packed; N candidate tokens, packed; Q chosen tokens; D width of a
token; H heads; C head_dim.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from kernels.shared_context_attention import SeqlenInfo, Tokens
from model.config import FeedSRConfig
from model.layers.pointwise_attention import Attend
from model.layers.rope import Rotate

Extend = Callable[[Tokens], Tokens]
"""New context tokens to the same queries over all keys and values, the remembered ones first."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the tokens of a batch sit: made once, used by every layer."""

    info: SeqlenInfo
    context: Rotate
    candidates: Rotate | None = None


class Layer(nn.Module, ABC):
    """A layer over a context and, beside it, candidates that share it."""

    def __init__(self, config: FeedSRConfig, attend: Attend) -> None:
        super().__init__()
        self.attend = attend
        self.norm_first = config.norm == "pre"

    @abstractmethod
    def project(
        self, x_TD: Tensor, rotate: Rotate, *, queries: bool = True
    ) -> tuple[Tokens, Tensor | None]:
        """The first half of tokens `[T, D]`.

        Returns:
            (query, key and value heads `[T, H, C]`, without queries where nobody asks; a gate
            `[T, D]` that `finish` wants back, or None).
        """

    @abstractmethod
    def finish(self, x_TD: Tensor, seen_THC: Tensor, gate_TD: Tensor | None) -> Tensor:
        """The second half: the next state of tokens, from theirs and what they attended to."""

    @abstractmethod
    def key_value_layer(self) -> nn.Linear:
        """The part of the first half that a context which nobody asks still needs."""

    def forward(
        self,
        context_TD: Tensor,
        candidates_ND: Tensor | None,
        placement: Placement,
        extend: Extend | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The next context and candidates."""
        context, gate = self.project(context_TD, placement.context)
        if extend is not None:
            context = extend(context)
        if candidates_ND is None:
            seen, _ = self.attend(context, None, placement.info)
            del context
            assert seen is not None
            return self.finish(context_TD, seen, gate), None
        candidates, gate_N = self._project_candidates(candidates_ND, placement)
        seen, seen_N = self.attend(context, candidates, placement.info)
        del context, candidates
        assert seen is not None
        assert seen_N is not None
        after = self.finish(context_TD, seen, gate)
        return after, self.finish(candidates_ND, seen_N, gate_N)

    def forward_rows(self, context_TD: Tensor, rows_Q: Tensor, placement: Placement) -> Tensor:
        """The next state of chosen context tokens `[Q, D]`: the last layer of `forward`."""
        context, gate = self.project(context_TD, placement.context)
        seen, _ = self.attend(context, None, placement.info)
        del context
        assert seen is not None
        gate_Q = None if gate is None else gate[rows_Q]
        return self.finish(context_TD[rows_Q], seen[rows_Q], gate_Q)

    def forward_candidates(
        self,
        context_TD: Tensor,
        candidates_ND: Tensor,
        placement: Placement,
        extend: Extend | None = None,
    ) -> Tensor:
        """The next candidates alone, the last layer of `rank`: the context gives K and V only."""
        context, _ = self.project(context_TD, placement.context, queries=False)
        if extend is not None:
            context = extend(context)
        candidates, gate_N = self._project_candidates(candidates_ND, placement)
        _, seen_N = self.attend(context, candidates, placement.info)
        del context, candidates
        assert seen_N is not None
        return self.finish(candidates_ND, seen_N, gate_N)

    def _project_candidates(
        self, candidates_ND: Tensor, placement: Placement
    ) -> tuple[Tokens, Tensor | None]:
        assert placement.candidates is not None
        return self.project(candidates_ND, placement.candidates)

    def _before(self, norm: nn.Module, x_TD: Tensor) -> Tensor:
        """A branch's input: normalised where LayerNorm comes first."""
        return norm(x_TD) if self.norm_first else x_TD

    def _after(self, norm: nn.Module, x_TD: Tensor) -> Tensor:
        """The sum of stream and branch: normalised where LayerNorm comes last."""
        return x_TD if self.norm_first else norm(x_TD)
