# SPDX-License-Identifier: Apache-2.0
"""Isotonic calibration as a layer: each task's logit through a rising piecewise linear function.

It is trained with the model that it calibrates, by the same loss, and so needs no second pass over
the log. Because it never falls it leaves the order of a task's scores as it is. Knows logits; does
not know where they come from.

Shape suffixes: R rows; K tasks; B buckets.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class IsotonicCalibration(nn.Module):
    """Logits to buckets, and the non-negative weights of the buckets below summed up.

    A bucket's weight is the function's slope inside it, `exp(log_slope)` and so never negative;
    the outermost buckets reach to infinity. New, every slope is one and the shift zero: the
    identity, to the bit. Weight decay pulls the slopes back there. LiRank, arXiv 2402.06859,
    section 3.4 (without its calibration features, which would let the order change).

    Args:
        tasks: K.
        buckets: B, equally wide between `low` and `high`.
        low: lower end of the first bucket, in log-odds.
        high: upper end of the last one.

    Raises:
        ValueError: no bucket, or `high` is not above `low`.
    """

    def __init__(self, tasks: int, buckets: int, low: float = -8.0, high: float = 8.0) -> None:
        super().__init__()
        if buckets < 1 or not low < high:
            raise ValueError(
                f"isotonic calibration with {buckets} buckets between {low} and {high}; want at "
                "least one, and low below high"
            )
        self.low, self.step, self.buckets = low, (high - low) / buckets, buckets
        self.log_slope_KB = nn.Parameter(torch.zeros(tasks, buckets))
        self.shift_K = nn.Parameter(torch.zeros(tasks))

    def forward(self, logits_RK: Tensor) -> Tensor:
        """Logits `[R, K]` of any float type to calibrated ones, float32 or float64."""
        x_RK = logits_RK.to(torch.promote_types(logits_RK.dtype, torch.float32))
        place_RK = ((x_RK.detach().nan_to_num() - self.low) / self.step).floor()
        place_RK = place_RK.clamp(0, self.buckets - 1)
        bucket_RK = place_RK.long()
        # What the slopes add to the identity: nothing at all in a new layer.
        excess_KB = self.log_slope_KB.expm1()
        below_KB = (excess_KB.cumsum(1) - excess_KB) * self.step
        inside_RK = x_RK - (self.low + self.step * place_RK)
        added_RK = _of(below_KB, bucket_RK) + _of(excess_KB, bucket_RK) * inside_RK
        return x_RK + added_RK + self.shift_K


def _of(table_KB: Tensor, bucket_RK: Tensor) -> Tensor:
    """Each row's entry of its task's table, `[R, K]`."""
    return table_KB.T.gather(0, bucket_RK)
