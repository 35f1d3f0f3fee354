# SPDX-License-Identifier: Apache-2.0
"""Compiles what the Triton launches would run, for a GPU that need not be there.

    python -m tests.kernels.triton_compiler 90 bfloat16:64:context float32:32:candidates

The launches of `gpu/` run as they are, up to the point where a kernel would start; each kernel is
one JSON line. In a process of its own, because tests without a GPU interpret Triton.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from kernels.shared_context_attention.gpu.backward import backward
from kernels.shared_context_attention.gpu.forward import forward

INSTRUCTIONS = ("mma.sync", "wgmma.mma_async", "cp.async", "tf32")


class Target:
    """What Triton asks of a driver before it compiles."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def launch(dtype: torch.dtype, head_dim: int, queries: str) -> None:
    """Forward and backward of a "context" with prefixes, a "causal" one, or "candidates"."""
    cu_seqlens, cu_candidates = (torch.tensor([0, n], dtype=torch.int32) for n in (200, 64))
    k = torch.zeros(200, 4, head_dim, dtype=dtype)
    q, own, cu, prefix = k, None, cu_seqlens, None
    if queries == "context":
        prefix = torch.zeros(200, dtype=torch.int32)
    elif queries == "candidates":
        q, cu = torch.zeros(64, 4, head_dim, dtype=dtype), cu_candidates
        own = (q, q)
    who = (q, (k, k), own, (cu, cu_seqlens), (prefix, 2), 0.125)
    _, lse = forward(*who)
    backward((q, None, q, lse), *who)


def main(capability: int, kinds: list[str]) -> None:
    """Print each kernel of each `dtype:head_dim:queries`."""
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        counts = {name: kernel.asm["ptx"].count(name) for name in INSTRUCTIONS}
        name = f"{kind} {kernel.name}"
        print(json.dumps({"name": name, "shared": kernel.metadata.shared} | counts))
        return kernel

    triton.runtime.driver.set_active(Target(capability))
    JITFunction.run = compile_only
    for kind in kinds:
        dtype, head_dim, queries = kind.split(":")
        launch(getattr(torch, dtype), int(head_dim), queries)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
