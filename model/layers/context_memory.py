# SPDX-License-Identifier: Apache-2.0
"""Keys and values of a batch's histories in every layer: those remembered, then those new.

A token's keys and values depend on the tokens before it and on its own place alone (positions
count from the window's start, or are times; what an impression knew is part of it), so those of a
history's first impressions hold for as long as its window starts where it did. Knows tensors;
which history they are of is the caller's business.

A history's memory is one tensor `[layers, 2, tokens, heads, head_dim]`: keys, then values. Shape
suffixes: T new context tokens of the batch; M all of its context tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from kernels.shared_context_attention import Tokens


class ContextMemory:
    """One forward's keys and values, packed over its sequences.

    Args:
        past: each sequence's memory; None where nothing is remembered.
        added: how many tokens the batch adds to each sequence.
        shape: (layers, heads, head_dim).
        like: dtype and device of the keys and values.
    """

    def __init__(
        self,
        past: Sequence[Tensor | None],
        added: Sequence[int],
        shape: tuple[int, int, int],
        like: Tensor,
    ) -> None:
        layers, heads, head_dim = shape
        self.past_tokens = [0 if p is None else p.shape[2] for p in past]
        lengths = [n + a for n, a in zip(self.past_tokens, added, strict=True)]
        self._spans = [slice(*ends) for ends in pairwise(accumulate(lengths, initial=0))]
        self._new = list(zip(self.past_tokens, added, strict=True))
        only = past[0] if len(past) == 1 and not added[0] else None
        if only is not None:
            self._all = only  # nothing is added to the one history: no copy
            return
        packed = (layers, 2, sum(lengths), heads, head_dim)
        self._all = torch.empty(packed, dtype=like.dtype, device=like.device)
        for kept, span in zip(past, self._spans, strict=True):
            if kept is not None:
                self._all[:, :, span][:, :, : kept.shape[2]] = kept

    def extend(self, layer: int, tokens: Tokens) -> Tokens:
        """The new tokens' queries `[T, ..]` over all keys and values `[M, ..]` of a layer."""
        k_M, v_M = self._all[layer]
        first = 0
        for span, (past, added) in zip(self._spans, self._new, strict=True):
            if added:
                rows = slice(span.start + past, span.stop)
                k_M[rows] = tokens.k[first : first + added]
                v_M[rows] = tokens.v[first : first + added]
            first += added
        return Tokens(tokens.q, k_M, v_M)

    def of_each(self) -> list[Tensor]:
        """Each sequence's memory, to be kept; a batch of several is copied apart."""
        if len(self._spans) == 1:
            return [self._all]
        return [self._all[:, :, span].clone() for span in self._spans]
