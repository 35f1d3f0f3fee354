# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding from explicit positions or times (Su et al., arXiv 2104.09864).

Positions come from what was known, not from the row: see docs/known-time.md. Rotations are
computed in at least float32, whatever autocast says: bfloat16 cannot tell position 1999 from 2000.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Rotate = Callable[[Tensor], Tensor]
"""Turns heads `[T, heads, head_dim]` by where their tokens sit."""
SHORTEST_MS = 1_000
LONGEST_MS = 365 * 86_400_000
"""A second and a year: the periods of a rotation by time lie between, their logarithms evenly."""


@dataclass(frozen=True)
class Rotation:
    """The angles of T tokens: cosines and sines `[T, 1, head_dim / 2]`, for all heads."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def at(cls, position_T: Tensor, head_dim: int, base: float, dtype: torch.dtype) -> Rotation:
        """The rotation of tokens at integer positions `[T]`; `dtype` is float32 or float64."""
        index = torch.arange(0, head_dim, 2, device=position_T.device, dtype=torch.float64)
        frequency = base ** (-index / head_dim)
        angle = (position_T.to(torch.float64)[:, None, None] * frequency).to(dtype)
        return cls(angle.cos(), angle.sin())

    @classmethod
    def at_times(cls, time_T: Tensor, head_dim: int, dtype: torch.dtype) -> Rotation:
        """The rotation of tokens at times int64 `[T]` ms; `dtype` is float32 or float64.

        A period is a whole number of milliseconds and time is reduced to it in integers, so that
        an angle between two tokens is that of their elapsed time alone, exactly, decades after the
        epoch as in its first second.
        """
        powers = torch.linspace(0, 1, head_dim // 2, device=time_T.device, dtype=torch.float64)
        period = (SHORTEST_MS * (LONGEST_MS / SHORTEST_MS) ** powers).round().long()
        turn = (time_T[:, None, None] % period).double() / period
        angle = (2 * math.pi * turn).to(dtype)
        return cls(angle.cos(), angle.sin())

    def __call__(self, x_THC: Tensor) -> Tensor:
        """Rotates heads `[T, heads, head_dim]`; the dtype stays."""
        wide = x_THC.to(self.cos.dtype)
        first, second = wide.chunk(2, -1)
        if torch.is_grad_enabled():
            rotated = [first * self.cos - second * self.sin, second * self.cos + first * self.sin]
            return torch.cat(rotated, -1).to(x_THC.dtype)
        # The same products into one buffer: a third of the time where memory is what takes it.
        rotated_THC = torch.empty(wide.shape, dtype=wide.dtype, device=wide.device)
        left, right = rotated_THC.chunk(2, -1)
        torch.mul(first, self.cos, out=left).addcmul_(second, self.sin, value=-1)
        torch.mul(second, self.cos, out=right).addcmul_(first, self.sin)
        return rotated_THC.to(x_THC.dtype)


def unrotated(x_THC: Tensor) -> Tensor:
    """The heads as they are: the rotation of a model without one."""
    return x_THC
