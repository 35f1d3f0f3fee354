# SPDX-License-Identifier: Apache-2.0
"""What the Triton kernels compile to, for GPUs that need not be there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kernels.shared_context_attention import gpu

pytest.importorskip("triton", reason="needs Triton: install the extra gpu")

SHARED_MEMORY = 99 * 1024
"""Bytes a program may have on the smallest GPUs of compute capability 8.0 and above."""
WHOLE_MATRIX = pytest.mark.skipif(
    "FEEDSR_COMPILE_ALL" not in os.environ,
    reason="every kind takes three minutes to compile; a few are covered, FEEDSR_COMPILE_ALL=1 all",
)
FEW = {
    80: ["float16:32:context", "bfloat16:128:candidates"],
    90: ["bfloat16:64:context", "float16:128:causal", "float32:32:candidates"],
}
ALL = [
    f"{dtype}:{head_dim}:{queries}"
    for dtype in ("bfloat16", "float16", "float32")
    for head_dim in gpu.tiles.HEAD_DIMS
    for queries in ("context", "causal", "candidates")
]


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    "kinds", [FEW, pytest.param({80: ALL, 90: ALL}, marks=WHOLE_MATRIX)], ids=["few", "all"]
)
def test_compiles_to_tensor_cores_and_float32_to_exact_products(  # type: ignore[no-untyped-def]
    capability, kinds, tmp_path
) -> None:
    want, other = ("mma.sync", "wgmma.mma_async")[:: 1 if capability == 80 else -1]
    for kernel in compiled(capability, kinds[capability], tmp_path):
        exact = kernel["name"].startswith("float32")
        assert (kernel[want] == 0) == exact, kernel
        assert kernel[other] == 0, kernel
        assert kernel["tf32"] == 0, kernel
        assert kernel["cp.async"] > 0 or exact, kernel
        assert kernel["shared"] <= SHARED_MEMORY, kernel


def compiled(capability: int, kinds: list[str], cache: Path) -> list[dict[str, Any]]:
    """Each kernel's shared memory and counted instructions; nothing is taken from a cache."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.triton_compiler", str(capability), *kinds],
        env=os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kernels) == 3 * len(kinds)
    return kernels
