# SPDX-License-Identifier: Apache-2.0
"""The factor of the scores: any finite number, negative and 0 too, has one meaning everywhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def check_scale(softmax_scale: float, dtype: torch.dtype) -> None:
    """Refuses what no implementation can multiply scores of this dtype by.

    Raises:
        ValueError: NaN, infinite, or so large that it is infinite in scores of base 2 (in at least
            float32).
    """
    largest = torch.finfo(torch.promote_types(dtype, torch.float32)).max / 2
    if not math.isfinite(softmax_scale) or abs(softmax_scale) > largest:
        raise ValueError(
            f"softmax_scale is {softmax_scale}, want a finite number of at most {largest:.3g}; "
            "None is 1 / sqrt(head_dim)"
        )


def above_zero(q: Tensor, softmax_scale: float) -> tuple[Tensor, float, float]:
    """`(factor * q, scale, factor)` with the same scores and a scale above 0.

    PyTorch's causal attention hides a score as -inf before it multiplies by the scale, which a
    negative one makes +inf, and 0 NaN. So the queries take what the scale may not have.
    """
    if softmax_scale > 0:
        return q, softmax_scale, 1.0
    factor = -1.0 if softmax_scale < 0 else 0.0
    return q * factor, -softmax_scale or 1.0, factor
