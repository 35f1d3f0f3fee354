# SPDX-License-Identifier: Apache-2.0
"""Shared-context attention in Triton: which tensors it is for. Triton is imported on first use.

Where `TRITON_INTERPRET=1` was set when Triton was first imported, the kernels run on the CPU,
slowly, for tests.
"""

from __future__ import annotations

import functools
import importlib
import os
import shutil

import torch

from kernels.shared_context_attention.gpu.tiles import HEAD_DIMS

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CAPABILITY = (8, 0)


def available(device: str, dtype: torch.dtype, head_dim: int) -> tuple[bool, str]:
    """Whether the kernels compute tensors of this kind, and why, in words."""
    if device != "cuda" or torch.version.cuda is None:
        return False, f"the Triton kernels are for NVIDIA GPUs, not for this {device}"
    if dtype not in DTYPES or head_dim not in HEAD_DIMS:
        return False, (
            "the Triton kernels are for float32, bfloat16 or float16 and a head_dim of 32, 64, 128"
        )
    capability = torch.cuda.get_device_capability()
    if capability < CAPABILITY:
        return False, "the GPU has compute capability {}.{}, less than 8.0".format(*capability)
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return False, "Triton launches kernels with a C compiler and there is none; install gcc"
    return _importable()


@functools.cache
def _importable() -> tuple[bool, str]:
    try:
        triton = importlib.import_module("triton")
    except ImportError as error:
        return False, f"Triton cannot be imported ({error}); install the extra gpu"
    return True, f"Triton {triton.__version__}"
