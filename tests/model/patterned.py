# SPDX-License-Identifier: Apache-2.0
"""Weights and inputs that no generator drew: the same on every machine, and no two alike."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def numbers(*shape: int, start: int = 0, scale: float = 1.0) -> Tensor:
    """Float64 of a shape, in [-scale, scale]: sines of 0.7, 1.7, 2.7 ... from `start` on."""
    count = torch.Size(shape).numel()
    index = torch.arange(start, start + count, dtype=torch.float64)
    return scale * (index + 0.7).sin().reshape(shape)


def patterned(module: M, scale: float = 0.5) -> M:
    """The module in float64 and eval mode, its parameters in order filled with `numbers`."""
    module.double().eval()
    start = 0
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(numbers(*parameter.shape, start=start, scale=scale))
            start += parameter.numel()
    return module
