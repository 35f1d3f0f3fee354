# SPDX-License-Identifier: Apache-2.0
"""Weights and inputs that no generator drew: the same on every machine, and no two alike."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def numbers(*shape: int, start: int = 0, scale: float = 1.0) -> Tensor:
    """Float64 of a shape, spread evenly over [-scale, scale).

    They are residues of squares of whole numbers from `start` on.
    """
    index = torch.arange(start, start + torch.Size(shape).numel())
    return scale * (2 * (index * (index + 13) * 7919 % 10_007).double() / 10_007 - 1).reshape(shape)


def patterned(module: M, scale: float = 0.5) -> M:
    """The module in float64 and eval mode, its parameters in order filled with `numbers`.

    Gains that start at one have one added.
    """
    module.double().eval()
    start = 0
    with torch.no_grad():
        for parameter in module.parameters():
            gain = bool((parameter == 1).all())
            parameter.copy_(gain + numbers(*parameter.shape, start=start, scale=scale))
            start += parameter.numel()
    return module
