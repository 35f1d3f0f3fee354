# SPDX-License-Identifier: Apache-2.0
"""Packed batches with their inputs, for the attention's tests, and how far results lie apart."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from kernels.shared_context_attention import SeqlenInfo, Tokens, plain, shared_context_attention

HEADS, HEAD_DIM = 2, 8
SCALE = HEAD_DIM**-0.5


@dataclasses.dataclass(frozen=True)
class Case:
    """One packed batch with its inputs."""

    context: Tokens
    candidates: Tokens
    info: SeqlenInfo

    @property
    def leaves(self) -> list[Tensor]:
        """What is differentiated by."""
        return [*self.context.present, *self.candidates.present]

    def to(self, dtype: torch.dtype) -> Case:
        """The same numbers, rounded, as new leaves."""

        def cast(tokens: Tokens) -> Tokens:
            q, k, v = (
                None if x is None else x.detach().to(dtype).requires_grad_()
                for x in (tokens.q, tokens.k, tokens.v)
            )
            assert k is not None
            assert v is not None
            return Tokens(q, k, v)

        return Case(cast(self.context), cast(self.candidates), self.info)

    def run(self, attention=shared_context_attention) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        """Outputs of context and candidates."""
        return attention(self.context, self.candidates, self.info, softmax_scale=SCALE)

    def gradients(self, attention) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]
        """Of an output-weighted sum, so that every element of every output counts differently."""
        outs = self.run(attention)
        loss = sum((x * torch.arange(x.numel()).view_as(x).cos().to(x.dtype)).sum() for x in outs)
        return torch.autograd.grad(loss, self.leaves)


def offsets(lengths: list[int]) -> Tensor:
    """int32 offsets `[S + 1]` of packed sequences."""
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def random_prefix(lengths: list[int], group: int, generator: torch.Generator) -> Tensor:
    """int32, of each token no more than what comes before its own impression."""
    limits = [i // group * group for n in lengths for i in range(n)]
    share = torch.rand(len(limits), generator=generator)
    return (torch.tensor(limits, dtype=torch.float32) + 1).mul(share).floor().to(torch.int32)


def make_case(
    lengths: list[int],
    counts: list[int],
    *,
    prefix: str = "none",
    group: int = 2,
    seed: int = 0,
) -> Case:
    """Float64 normal inputs; `prefix` is "none", "random" or "zero"."""
    g = torch.Generator().manual_seed(seed)

    def tokens(n: int) -> Tokens:
        return Tokens(
            *(torch.randn(n, HEADS, HEAD_DIM, dtype=torch.float64, generator=g) for _ in "qkv")
        )

    prefixes = {
        "none": None,
        "zero": torch.zeros(sum(lengths), dtype=torch.int32),
        "random": random_prefix(lengths, group, g),
    }
    info = SeqlenInfo(
        cu_seqlens=offsets(lengths),
        cu_candidates=offsets(counts),
        prefix=prefixes[prefix],
        group=group,
    )
    return Case(tokens(sum(lengths)), tokens(sum(counts)), info).to(torch.float64)


def plain_attention(context, candidates, info, *, softmax_scale):  # type: ignore[no-untyped-def]
    """The public operators, called as the others are."""
    return (
        plain.context_attention(context.q, context.k, context.v, info, softmax_scale),
        plain.candidate_attention(candidates, context.k, context.v, info, softmax_scale),
    )


def biggest_error(got: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> list[float]:
    """Of each tensor that has an element."""
    return [
        float((a.double() - b.double()).detach().abs().max())
        for a, b in zip(got, exact, strict=True)
        if len(b)
    ]


RAGGED = ([6, 0, 1, 40, 13], [3, 2, 0, 5, 1])
