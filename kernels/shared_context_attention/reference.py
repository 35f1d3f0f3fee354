# SPDX-License-Identifier: Apache-2.0
"""The specification of shared-context attention: a dense mask and a softmax, in plain PyTorch.

Any dtype, one sequence at a time, quadratic in memory, differentiable by itself. Tests run it in
float64. It shares no code with the fast versions except the packed structs and what is
refused.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.shared_context_attention.scale import check_scale
from kernels.shared_context_attention.seqlens import SeqlenInfo, Tokens


def reference(
    context: Tokens, candidates: Tokens | None, info: SeqlenInfo, *, softmax_scale: float
) -> tuple[Tensor | None, Tensor | None]:
    """Outputs `[M, heads, head_dim]` and `[N, heads, head_dim]`; None where there is no query.

    Raises:
        ValueError: a softmax_scale that is no finite number.
    """
    check_scale(softmax_scale, context.k.dtype)
    out_context: list[Tensor] = []
    out_candidates: list[Tensor] = []
    for s, (rows, wanted) in enumerate(zip(info.sequences, info.requests, strict=True)):
        k, v = context.k[rows], context.v[rows]
        if context.q is not None:
            seen = context_mask(info, s)
            q = context.q[info.queries[s]]
            out_context.append(attend(q, k, v, seen, softmax_scale))
        if candidates is not None and candidates.q is not None:
            seen = candidate_mask(len(k), wanted.stop - wanted.start, k.device)
            k, v = torch.cat([k, candidates.k[wanted]]), torch.cat([v, candidates.v[wanted]])
            out_candidates.append(attend(candidates.q[wanted], k, v, seen, softmax_scale))
    q_candidates = None if candidates is None else candidates.q
    return _packed(out_context, context.q), _packed(out_candidates, q_candidates)


def context_mask(info: SeqlenInfo, sequence: int) -> Tensor:
    """bool `[queries, L]`: which keys (columns) each query of the context (row) sees."""
    tokens, rows = info.sequences[sequence], info.queries[sequence]
    length, count = tokens.stop - tokens.start, rows.stop - rows.start
    column = torch.arange(length, device=info.cu_seqlens.device)
    i = column[length - count :, None]
    own = i // info.group * info.group
    prefix = own if info.prefix is None else info.prefix[rows, None]
    return (column < prefix) | ((column >= own) & (column <= i))


def candidate_mask(length: int, count: int, device: torch.device) -> Tensor:
    """bool `[count, length + count]`: every context token, and of the candidates only itself."""
    seen = torch.ones(count, length, dtype=torch.bool, device=device)
    return torch.cat([seen, torch.eye(count, dtype=torch.bool, device=device)], dim=1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, softmax_scale: float) -> Tensor:
    """Softmax attention of `q [R, H, D]` over `k, v [C, H, D]` under `mask [R, C]`: `[R, H, D]`."""
    scores = torch.einsum("rhd,chd->hrc", q, k) * softmax_scale
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return torch.einsum("hrc,chd->rhd", weights, v)


def _packed(outs: list[Tensor], q: Tensor | None) -> Tensor | None:
    """All sequences' outputs in one tensor; None without queries."""
    if q is None:
        return None
    return torch.cat(outs) if outs else torch.zeros_like(q)
