# SPDX-License-Identifier: Apache-2.0
"""The operators `feedsr::*` of torch.library: schema, fake implementation and autograd, once.

Which implementation computes is an argument, so that a compiled graph keeps what was chosen. The
backward, Triton's or on the CPU the portable one, needs of the forward only the log-sum-exp.
Operators take tensors only; a plan that `SeqlenInfo` keeps is found again by its tensors, and what
autograd keeps for the backward keeps it alive. A compiled graph keeps none: where the `SeqlenInfo`
is gone by then, its backward makes the plan anew.

The portable backward gives the gradient of a log-sum-exp too: with one more channel, in which q and
k are 0, v is 1, the output is 0 and its gradient is that of the log-sum-exp, it gives
`dS = P * (g . v - g . out + g_lse)`.

Shapes: q `[Q, H, D]`, k and v `[M, H, D]`; of candidates q, k_self and v_self `[N, H, D]`; log-sum-
exps `[Q, H]` and `[N, H]`, natural, of at least float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.shared_context_attention import flash, native
from kernels.shared_context_attention.scale import check_scale
from kernels.shared_context_attention.seqlens import (
    SeqlenInfo,
    Tokens,
    candidates_plan,
    context_plan,
    living_candidates_plan,
    living_context_plan,
)

Attended = tuple[Tensor, Tensor]
"""An output and its log-sum-exp."""


def attend(
    context: Tokens,
    candidates: Tokens | None,
    info: SeqlenInfo,
    softmax_scale: float,
    implementation: str,
) -> tuple[Attended | None, Attended | None]:
    """Context and candidates by the operators; None where there is no query."""
    check_scale(softmax_scale, context.k.dtype)
    k, v, scale = context.k, context.v, softmax_scale
    over_context = over_request = None
    # An operator's first call imports the whole compiler, which takes seconds; who asks for neither
    # gradients nor a graph needs no operator.
    plain = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
    if context.q is not None:
        who = (info.cu_seqlens, info.cu_queries, info.prefix, info.group)
        of_context = _context_forward if plain else context_attention
        over_context = of_context(context.q, k, v, *who, scale, implementation)
    if candidates is not None:
        assert candidates.q is not None
        assert info.cu_candidates is not None
        offsets = (info.cu_candidates, info.cu_seqlens)
        own_q, own_k, own_v = candidates.present
        of_candidates = _candidate_forward if plain else candidate_attention
        over_request = of_candidates(own_q, own_k, own_v, k, v, *offsets, scale, implementation)
    return over_context, over_request


def _context_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    cu_queries: Tensor | None,
    prefix: Tensor | None,
    group: int,
    softmax_scale: float,
    implementation: str,
) -> tuple[Tensor, Tensor]:
    """Context queries over the context of their own sequence: output and log-sum-exp."""
    offsets = (cu_seqlens if cu_queries is None else cu_queries, cu_seqlens)
    if implementation == "triton":
        from kernels.shared_context_attention.gpu.forward import forward

        return forward(q, (k, v), None, offsets, (prefix, group), softmax_scale)
    if implementation == "native":
        return native.context_forward(q, k, v, offsets, prefix, group, softmax_scale)
    info = context_plan(cu_seqlens, cu_queries, prefix, group)
    return flash.context_forward(q, k, v, info, softmax_scale)


context_attention = torch.library.custom_op("feedsr::context_attention", mutates_args=())(
    _context_forward
)


@torch.library.custom_op("feedsr::context_attention_backward", mutates_args=())
def context_attention_backward(
    grad: Tensor,
    grad_lse: Tensor | None,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    cu_queries: Tensor | None,
    prefix: Tensor | None,
    group: int,
    softmax_scale: float,
    implementation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    if implementation == "triton":
        from kernels.shared_context_attention.gpu.backward import backward

        offsets = (cu_seqlens if cu_queries is None else cu_queries, cu_seqlens)
        merged = (grad, grad_lse, out, lse)
        grads = backward(merged, q, (k, v), None, offsets, (prefix, group), softmax_scale)
        return grads[0], grads[1], grads[2]
    info = context_plan(cu_seqlens, cu_queries, prefix, group)
    grad, out, (q_wide, k, v) = _widened(grad, grad_lse, out, (q, k, v))
    grads = flash.context_backward((grad, out, lse), (q_wide, k, v), info, softmax_scale)
    grad_q, grad_k, grad_v = (x[..., : q.shape[-1]].contiguous() for x in grads)
    return grad_q, grad_k, grad_v


def _candidate_forward(
    q: Tensor,
    k_self: Tensor,
    v_self: Tensor,
    k: Tensor,
    v: Tensor,
    cu_candidates: Tensor,
    cu_seqlens: Tensor,
    softmax_scale: float,
    implementation: str,
) -> tuple[Tensor, Tensor]:
    """Candidates over the context of their request and themselves: output and log-sum-exp."""
    own = (q, k_self, v_self)
    if implementation == "triton":
        from kernels.shared_context_attention.gpu.forward import forward

        offsets = (cu_candidates, cu_seqlens)
        return forward(q, (k, v), own[1:], offsets, (None, 1), softmax_scale)
    if implementation == "native":
        return native.candidate_forward(own, k, v, (cu_candidates, cu_seqlens), softmax_scale)
    info = candidates_plan(cu_seqlens, cu_candidates)
    return flash.candidate_forward(own, k, v, info, softmax_scale)


candidate_attention = torch.library.custom_op("feedsr::candidate_attention", mutates_args=())(
    _candidate_forward
)


@torch.library.custom_op("feedsr::candidate_attention_backward", mutates_args=())
def candidate_attention_backward(
    grad: Tensor,
    grad_lse: Tensor | None,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k_self: Tensor,
    v_self: Tensor,
    k: Tensor,
    v: Tensor,
    cu_candidates: Tensor,
    cu_seqlens: Tensor,
    softmax_scale: float,
    implementation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k_self, v_self, k and v."""
    if implementation == "triton":
        from kernels.shared_context_attention.gpu.backward import backward

        merged, offsets = (grad, grad_lse, out, lse), (cu_candidates, cu_seqlens)
        own = (k_self, v_self)
        a, b, c, d, e = backward(merged, q, (k, v), own, offsets, (None, 1), softmax_scale)
        return a, b, c, d, e
    info = candidates_plan(cu_seqlens, cu_candidates)
    grad, out, wide = _widened(grad, grad_lse, out, (q, k_self, v_self, k, v))
    q_wide, k_self, v_self, k, v = wide
    grads = flash.candidate_backward(
        (grad, out, lse), (q_wide, k_self, v_self), (k, v), info, softmax_scale
    )
    a, b, c, d, e = (x[..., : q.shape[-1]].contiguous() for x in grads)
    return a, b, c, d, e


def _widened(
    grad: Tensor, grad_lse: Tensor | None, out: Tensor, leaves: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """With the channel that a log-sum-exp's gradient needs, if it has one.

    Every second leaf after q is a value.
    """
    if grad_lse is None:
        return grad.contiguous(), out, leaves
    grad = torch.cat([grad, grad_lse.unsqueeze(-1).to(grad.dtype)], -1)
    values = range(2, len(leaves), 2)
    wider = (F.pad(x, (0, 1), value=float(i in values)) for i, x in enumerate(leaves))
    return grad, F.pad(out, (0, 1)), tuple(wider)


@context_attention.register_fake
@candidate_attention.register_fake
def _forward_like(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(q.dtype, torch.float32)
    return torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty(
        q.shape[:2], dtype=wide
    )


@context_attention_backward.register_fake
def _context_backward_like(
    grad: Tensor, grad_lse: Tensor | None, out: Tensor, lse: Tensor, *leaves: Any
) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in leaves[:3])


@candidate_attention_backward.register_fake
def _candidate_backward_like(
    grad: Tensor, grad_lse: Tensor | None, out: Tensor, lse: Tensor, *leaves: Any
) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in leaves[:5])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keeps inputs and outputs; a gradient that nobody asked for stays None."""
    ctx.set_materialize_grads(False)
    ctx.kinds = [isinstance(x, torch.Tensor) for x in inputs]
    ctx.others = [x for x in inputs if not isinstance(x, torch.Tensor)]
    ctx.save_for_backward(*output, *(x for x in inputs if isinstance(x, torch.Tensor)))


def _keep_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    cu_seqlens, cu_queries, prefix, group = inputs[3:7]
    ctx.plan = living_context_plan(cu_seqlens, cu_queries, prefix, group)
    _keep(ctx, inputs, output)


def _keep_candidates(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    cu_candidates, cu_seqlens = inputs[5:7]
    ctx.plan = living_candidates_plan(cu_seqlens, cu_candidates)
    _keep(ctx, inputs, output)


def _kept(ctx: Any) -> tuple[Tensor, Tensor, list[Any]]:
    """The outputs and the inputs, in order."""
    out, lse, *tensors = ctx.saved_tensors
    tensor, other = iter(tensors), iter(ctx.others)
    return out, lse, [next(tensor) if kind else next(other) for kind in ctx.kinds]


def _gradients(ctx: Any, backward: Any, grad: Tensor | None, grad_lse: Tensor | None) -> Any:
    """Of every input of the forward; only the leading tensors, `[tokens, H, D]`, have one."""
    out, lse, inputs = _kept(ctx)
    leaves, others = [x for x in inputs if _is_heads(x)], [x for x in inputs if not _is_heads(x)]
    grad = torch.zeros_like(out) if grad is None else grad
    grads = backward(grad, grad_lse, out, lse, *leaves, *others)
    return (*grads, *(None,) * len(others))


def _is_heads(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 3


def _context_gradients(ctx: Any, grad: Tensor | None, grad_lse: Tensor | None) -> Any:
    return _gradients(ctx, context_attention_backward, grad, grad_lse)


def _candidate_gradients(ctx: Any, grad: Tensor | None, grad_lse: Tensor | None) -> Any:
    return _gradients(ctx, candidate_attention_backward, grad, grad_lse)


context_attention.register_autograd(_context_gradients, setup_context=_keep_context)
candidate_attention.register_autograd(_candidate_gradients, setup_context=_keep_candidates)
