# SPDX-License-Identifier: Apache-2.0
"""The training loss: masked binary cross-entropy per task, as sums that add up over micro-batches.

The loss of a step is the mean over tasks of the weighted mean over the step's observed labels. The
divisor of that mean belongs to the whole global batch, so it is summed over micro-batches and ranks
first (`observed`), and each micro-batch then contributes its own part (`task_sums`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def observed(labels_RK: Tensor, weight_R: Tensor) -> Tensor:
    """float32 `[K]`: the weight of the observed labels of each task."""
    return (~labels_RK.isnan() * weight_R[:, None]).sum(0)


def task_sums(logits_RK: Tensor, labels_RK: Tensor, weight_R: Tensor) -> Tensor:
    """float32 `[K]`: the weighted sum of each task's cross-entropy over its observed labels."""
    known_RK = ~labels_RK.isnan()
    label_RK = torch.where(known_RK, labels_RK, 0.0)
    loss_RK = binary_cross_entropy_with_logits(logits_RK.float(), label_RK, reduction="none")
    return (loss_RK * (known_RK * weight_R[:, None])).sum(0)


def mean_over_tasks(sums_K: Tensor, observed_K: Tensor) -> Tensor:
    """The mean over tasks of `sums / observed`; a task that was never observed counts as zero."""
    return (sums_K / observed_K.clamp_min(torch.finfo(torch.float32).tiny)).mean()
