# SPDX-License-Identifier: Apache-2.0
"""Shared-context attention: one history, all candidates, one call. The only way in; see README.md.

Checks what comes in and chooses who computes it. Knows nothing of models, features or caches.
"""

from __future__ import annotations

import functools
import logging
import math

import torch
from torch import Tensor

from kernels.shared_context_attention import flash
from kernels.shared_context_attention.flops import attention_flops
from kernels.shared_context_attention.portable import portable
from kernels.shared_context_attention.reference import reference
from kernels.shared_context_attention.seqlens import SeqlenInfo, Tokens

__all__ = ["SeqlenInfo", "Tokens", "attention_flops", "reference", "shared_context_attention"]

_log = logging.getLogger(__name__)


def shared_context_attention(
    context: Tokens,
    candidates: Tokens | None,
    info: SeqlenInfo,
    *,
    softmax_scale: float | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Attention of packed context tokens and of candidates that share their request's context.

    A context token sees the prefix of its own sequence that `info` grants it and its own
    impression's tokens up to itself. A candidate sees the whole context of its request and itself,
    never another candidate. A request may have no context (its candidates see themselves only) or
    no candidates. Differentiable in every tensor.

    Args:
        context: `[M, heads, head_dim]`; with `q` None only the candidates are computed.
        candidates: `[N, heads, head_dim]`, `q` included; None without candidates.
        info: who sees whom.
        softmax_scale: factor of the scores; None is `1 / sqrt(head_dim)`.

    Returns:
        (out_context `[M, heads, head_dim]` | None, out_candidates `[N, heads, head_dim]` | None),
        in the dtype of the inputs.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together.
    """
    _check("context", context, info.num_tokens, like=context.k)
    if candidates is not None:
        if candidates.q is None:
            raise ValueError("candidates have no q; pass candidates=None where there are none")
        if info.cu_candidates is None:
            raise ValueError("there are candidates but SeqlenInfo has no cu_candidates; pass both")
        _check("candidates", candidates, info.num_candidates, like=context.k)
    scale = 1.0 / math.sqrt(context.k.shape[-1]) if softmax_scale is None else softmax_scale
    _say_once(context.k.device.type, context.k.dtype)
    dense = None if candidates is None else _dense(candidates)
    return portable(_dense(context), dense, info, softmax_scale=scale)


def _check(name: str, tokens: Tokens, count: int, *, like: Tensor) -> None:
    for tensor in tokens.present:
        if tensor.ndim != 3 or tensor.shape != (count, *like.shape[1:]):
            raise ValueError(
                f"{name} has a tensor {list(tensor.shape)}, want [{count}, heads, head_dim] "
                f"with heads and head_dim as in {list(like.shape)}"
            )
        if tensor.dtype != like.dtype or tensor.device != like.device:
            raise ValueError(
                f"{name} has a tensor {tensor.dtype} on {tensor.device}, context.k is "
                f"{like.dtype} on {like.device}; bring them to one dtype and device"
            )


def _dense(tokens: Tokens) -> Tokens:
    """The same tokens with each head's elements adjacent, as kernels need; copied only if not."""
    if all(x.stride(-1) == 1 for x in tokens.present):
        return tokens
    q = None if tokens.q is None else tokens.q.contiguous()
    return Tokens(q, tokens.k.contiguous(), tokens.v.contiguous())


@functools.cache
def _say_once(device: str, dtype: torch.dtype) -> None:
    by = "CPU flash attention" if flash.available(device, dtype) else "public operators"
    _log.info("shared_context_attention: portable split by %s for %s on %s", by, dtype, device)
