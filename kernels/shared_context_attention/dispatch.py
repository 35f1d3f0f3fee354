# SPDX-License-Identifier: Apache-2.0
"""The one place that chooses who computes, and says so once for each kind of input."""

from __future__ import annotations

import functools
import logging
from typing import Literal

import torch

from kernels.shared_context_attention import flash, gpu, native

Implementation = Literal["triton", "native", "portable", "plain"]
"""Triton on a GPU; C++; the split on PyTorch's CPU flash attention; the same in public operators.
"""

_log = logging.getLogger(__name__)


def choose(device: str, dtype: torch.dtype, head_dim: int) -> Implementation:
    """The fastest implementation there is for tensors of this kind; logs which, and why."""
    return _choose(device, dtype, head_dim)


# What `torch.compiler.assume_constant_result` does, which imports the whole compiler to do it:
# seconds in every process that loads a model, and few of them compile.
choose._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _choose(device: str, dtype: torch.dtype, head_dim: int) -> Implementation:
    chosen: Implementation = "native" if device == "cpu" else "triton"
    kernel = native if device == "cpu" else gpu
    usable, reason = kernel.available(device, dtype, head_dim)
    if not usable:
        chosen = "portable" if flash.available(device, dtype) else "plain"
    kind = f"{dtype} with head_dim {head_dim} on {device}"
    _log.info("shared_context_attention: %s for %s (%s)", chosen, kind, reason)
    return chosen
