# SPDX-License-Identifier: Apache-2.0
"""The one place that chooses who computes, and says so once for each kind of input."""

from __future__ import annotations

import functools
import logging
from typing import Literal

import torch

from kernels.shared_context_attention import flash

Implementation = Literal["portable", "plain"]
"""The split on PyTorch's CPU flash attention; the same in public operators."""

_log = logging.getLogger(__name__)


def choose(device: str, dtype: torch.dtype) -> Implementation:
    """The fastest implementation there is for tensors of this kind; logs which, and why."""
    chosen: Implementation = "portable" if flash.available(device, dtype) else "plain"
    if not torch.compiler.is_compiling():
        _say_once(chosen, device, dtype)
    return chosen


@functools.cache
def _say_once(chosen: Implementation, device: str, dtype: torch.dtype) -> None:
    reason = "CPU flash attention" if chosen == "portable" else "no flash attention there"
    _log.info("shared_context_attention: %s for %s on %s: %s", chosen, dtype, device, reason)
