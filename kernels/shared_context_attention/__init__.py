# SPDX-License-Identifier: Apache-2.0
"""Shared-context attention: one history, all candidates, one call. The only way in; see README.md.

Checks what comes in and chooses who computes it. Knows nothing of models, features or caches.
"""

from __future__ import annotations

import math

from torch import Tensor

from kernels.shared_context_attention import ops, plain
from kernels.shared_context_attention.dispatch import Implementation, choose
from kernels.shared_context_attention.flops import attention_flops
from kernels.shared_context_attention.reference import reference
from kernels.shared_context_attention.seqlens import SeqlenInfo, Tokens

__all__ = [
    "SeqlenInfo",
    "Tokens",
    "attention_flops",
    "choose",
    "reference",
    "shared_context_attention",
    "shared_context_attention_lse",
]


def shared_context_attention(
    context: Tokens,
    candidates: Tokens | None,
    info: SeqlenInfo,
    *,
    softmax_scale: float | None = None,
    implementation: Implementation | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Attention of packed context tokens and of candidates that share their request's context.

    A context token sees the prefix of its own sequence that `info` grants it and its own
    impression's tokens up to itself. A candidate sees the whole context of its request and itself,
    never another candidate. A request may have no context (its candidates see themselves only) or
    no candidates. Differentiable in every tensor; works under torch.compile with an `info` that
    was built outside.

    Args:
        context: k and v `[M, heads, head_dim]`; q the same, or the last tokens of each sequence
            (`info.cu_queries`); with `q` None only the candidates are computed.
        candidates: `[N, heads, head_dim]`, `q` included; None without candidates.
        info: who sees whom.
        softmax_scale: factor of the scores, any finite number (a negative one prefers the keys that
            are least alike, 0 none); None is `1 / sqrt(head_dim)`.
        implementation: who computes; None is the fastest there is (`choose`).

    Returns:
        (out_context, of q's shape, or None; out_candidates `[N, heads, head_dim]` or None), in the
        dtype of the inputs.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together; a softmax_scale that is NaN
            or infinite.
    """
    scale, chosen = _check(context, candidates, info, softmax_scale, implementation)
    dense = None if candidates is None else _dense(candidates)
    if chosen == "plain":
        return plain.attend(_dense(context), dense, info, scale)
    attended = ops.attend(_dense(context), dense, info, scale, chosen)
    out_context, out_candidates = (None if x is None else x[0] for x in attended)
    return out_context, out_candidates


def shared_context_attention_lse(
    context: Tokens,
    candidates: Tokens | None,
    info: SeqlenInfo,
    *,
    softmax_scale: float | None = None,
    implementation: Implementation | None = None,
) -> tuple[ops.Attended | None, ops.Attended | None]:
    """`shared_context_attention` with the natural log-sum-exp of every query's scores.

    Returns:
        ((out_context, lse `[Q, heads]`) or None, (out_candidates, lse `[N, heads]`) or None). A
        log-sum-exp has at least float32; it is differentiable too.

    Raises:
        ValueError: as `shared_context_attention`; or inputs for which there are only public
            operators, which give none.
    """
    scale, chosen = _check(context, candidates, info, softmax_scale, implementation)
    if chosen == "plain":
        raise ValueError(
            f"no implementation gives the log-sum-exp of {context.k.dtype} with head_dim "
            f"{context.k.shape[-1]} on {context.k.device.type}; use a CPU, or on a GPU Triton with "
            "head_dim 32, 64 or 128"
        )
    dense = None if candidates is None else _dense(candidates)
    return ops.attend(_dense(context), dense, info, scale, chosen)


def _check(
    context: Tokens,
    candidates: Tokens | None,
    info: SeqlenInfo,
    softmax_scale: float | None,
    implementation: Implementation | None,
) -> tuple[float, Implementation]:
    """The scale and who computes, once everything fits together."""
    k = context.k
    _check_tokens("context", (k, context.v), info.num_tokens, like=k)
    if context.q is not None:
        _check_tokens("context", (context.q,), info.num_queries, like=k)
    if candidates is not None:
        if candidates.q is None:
            raise ValueError("candidates have no q; pass candidates=None where there are none")
        if info.cu_candidates is None:
            raise ValueError("there are candidates but SeqlenInfo has no cu_candidates; pass both")
        _check_tokens("candidates", candidates.present, info.num_candidates, like=k)
    scale = 1.0 / math.sqrt(k.shape[-1]) if softmax_scale is None else softmax_scale
    chosen = implementation or choose(k.device.type, k.dtype, k.shape[-1])
    if chosen == "triton" and info.cu_seqlens.device != k.device:
        raise ValueError(
            f"SeqlenInfo is on {info.cu_seqlens.device}, context.k on {k.device}; build it there"
        )
    return scale, chosen


def _check_tokens(name: str, tensors: tuple[Tensor, ...], count: int, *, like: Tensor) -> None:
    for tensor in tensors:
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
