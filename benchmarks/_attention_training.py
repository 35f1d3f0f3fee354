# SPDX-License-Identifier: Apache-2.0
"""A training step of attention, forward and backward: packed by one of ours, or padded by SDPA."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks._attention_peers import Padding, Parts, sdpa
from benchmarks._attention_rules import Variant
from kernels.shared_context_attention import SeqlenInfo, Tokens, shared_context_attention
from kernels.shared_context_attention.dispatch import Implementation


def packed_step(
    context: Tokens, info: SeqlenInfo, grad: Tensor, implementation: Implementation
) -> Variant:
    """Output and gradients of q, k and v by one of ours."""

    def run() -> Parts:
        out = shared_context_attention(context, None, info, implementation=implementation)[0]
        assert out is not None
        return (out.detach(), *torch.autograd.grad(out, context.present, grad))

    return Variant(run=run)


def padded_step(context: Tokens, info: SeqlenInfo, grad: Tensor) -> Variant:
    """The same, padded and behind a mask; nothing flows back from the padding."""
    padding = Padding.of(info)
    mask, padded_grad = padding.mask(grad.dtype), padding.pad(grad)
    q, k, v = (padding.pad(x.detach()).requires_grad_() for x in context.present)

    def run() -> Parts:
        out = sdpa(q, k, v, mask)
        return (out.detach(), *torch.autograd.grad(out, (q, k, v), padded_grad))

    def packed(parts: Parts) -> Parts:
        return tuple(padding.unpack(x)[0] for x in parts if x is not None)

    return Variant(run=run, parts=packed, peer=True)
