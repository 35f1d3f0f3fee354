# SPDX-License-Identifier: Apache-2.0
"""The C++ kernel of `cpu/`: one pass, fp32 and bf16; outputs are allocated here.

Instruction sets, chosen at run time, the fastest first:
  float32   avx512 (multiply-adds)
  bfloat16  amx_bf16 (tiles), avx512_bf16 (dot products of pairs), avx512 (widened to float32)
The order is measured, on an AMD EPYC without tiles and on a Xeon with them: README, "How it runs".
Each is there once more in plain C++, its name followed by _emulated (`amx_emulated` the tiles):
slow, never chosen by itself, and the same on every x86-64, so that the kernels are tested there.
FEEDSR_INSTRUCTIONS names the one that computes; a dtype that has not got it here is not computed by
C++ then.

Threads are torch's setting. Knows nothing of autograd (`ops.py`).
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from kernels._native import native

VARIABLE = "FEEDSR_INSTRUCTIONS"
NAMES = (
    *("amx_bf16", "avx512_bf16", "avx512"),
    *("amx_emulated", "avx512_bf16_emulated", "avx512_emulated"),
)
"""All that there are on some processor."""


def available(device: str, dtype: torch.dtype, head_dim: int) -> tuple[bool, str]:
    """Whether the kernel computes tensors of this kind, and why, in words."""
    module, reason = native("shared_context_attention")
    if device != "cpu":
        return False, f"the C++ kernel is for the CPU, not for {device}"
    if module is None:
        return False, reason
    if dtype not in (torch.float32, torch.bfloat16) or head_dim % 16 or not 16 <= head_dim <= 128:
        return False, "the C++ kernel is for float32 or bfloat16 and a head_dim of 16, 32, ... 128"
    names, wanted = instructions(dtype), _wanted()
    if wanted and wanted not in (*names, *emulated(dtype)):
        return False, f"{VARIABLE}={wanted}, which this processor has not got for {dtype}"
    if not wanted and not names:
        return False, "the processor has no AVX-512"
    return True, f"C++ with {wanted or names[0]}"


def instructions(dtype: torch.dtype) -> list[str]:
    """The instruction sets that this processor can run for a dtype, the fastest first."""
    return _names("instructions", dtype)


def emulated(dtype: torch.dtype) -> list[str]:
    """Those that are written out in plain C++, for tests."""
    return _names("emulated", dtype)


def _names(which: str, dtype: torch.dtype) -> list[str]:
    module = native("shared_context_attention")[0]
    assert module is not None
    names: list[str] = getattr(module, which)(dtype == torch.bfloat16)
    return names


def _wanted() -> str:
    """What the environment asks for; empty is the fastest.

    Raises:
        ValueError: there is no such instruction set anywhere.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted and wanted not in NAMES:
        raise ValueError(f"{VARIABLE} is {wanted!r}, want one of {', '.join(NAMES)}; or unset it")
    return wanted


def context_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: tuple[Tensor, Tensor],
    prefix: Tensor | None,
    group: int,
    scale: float,
    instructions: str = "",
) -> tuple[Tensor, Tensor]:
    """Context queries `[Q, H, D]` over their own sequence; `offsets` are cu_queries, cu_seqlens.

    Returns:
        output `[Q, H, D]` and log-sum-exp `[Q, H]`.

    Raises:
        ValueError: shapes, offsets or prefixes that do not fit; `instructions` that the processor
            does not have (empty is what FEEDSR_INSTRUCTIONS says, or the fastest).
    """
    out, lse = _like(q)
    module = native("shared_context_attention")[0]
    assert module is not None
    threads = torch.get_num_threads()
    qkv = (_bits(x) for x in (q, k, v))
    chosen = instructions or _wanted()
    module.context(*qkv, *offsets, prefix, group, scale, threads, chosen, _bits(out), lse)
    return out, lse


def candidate_forward(
    own: tuple[Tensor, Tensor, Tensor],
    k: Tensor,
    v: Tensor,
    offsets: tuple[Tensor, Tensor],
    scale: float,
    instructions: str = "",
) -> tuple[Tensor, Tensor]:
    """Candidates `own` (q, k_self, v_self) over their request's context and themselves.

    Args:
        own: each `[N, H, D]`.
        k, v: the context's, `[M, H, D]`.
        offsets: cu_candidates, cu_seqlens.
        scale: of the scores.
        instructions: as in `context_forward`.

    Returns:
        output `[N, H, D]` and log-sum-exp `[N, H]`.

    Raises:
        ValueError: as `context_forward`.
    """
    out, lse = _like(own[0])
    module = native("shared_context_attention")[0]
    assert module is not None
    threads = torch.get_num_threads()
    tensors = (_bits(x) for x in (*own, k, v))
    chosen = instructions or _wanted()
    module.candidates(*tensors, *offsets, scale, threads, chosen, _bits(out), lse)
    return out, lse


def _like(q: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=torch.float32)


def _bits(x: Tensor) -> Tensor:
    """The tensor as C++ takes it: a bfloat16 as its bits."""
    x = x.detach()
    return x.view(torch.int16) if x.dtype == torch.bfloat16 else x
