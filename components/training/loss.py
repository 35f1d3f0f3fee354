# SPDX-License-Identifier: Apache-2.0
"""The training loss: masked binary cross-entropy per task, as sums that add up over micro-batches.

The loss of a step is the mean over tasks of the weighted mean over the step's observed labels. The
divisor of that mean belongs to the whole global batch, so it is summed over micro-batches and ranks
first (`observed`), and each micro-batch then contributes its own part (`task_sums`).

A label is a probability, or above one where it was divided by a propensity
(`components.training.data`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

CEILING = 5.0
"""The logit beyond which a label above one pulls no further: a relevance of .993."""


def observed(labels_RK: Tensor, weight_R: Tensor) -> Tensor:
    """float32 `[K]`: the weight of the observed labels of each task."""
    return (~labels_RK.isnan() * weight_R[:, None]).sum(0)


def task_sums(logits_RK: Tensor, labels_RK: Tensor, weight_R: Tensor) -> Tensor:
    """float32 `[K]`: the weighted sum of each task's cross-entropy over its observed labels.

    The cross-entropy with a label y above one, that with 1 less `(y - 1) * logit`, has no lower
    bound: one row could pay for all others. So the logit counts there up to `CEILING` alone, and a
    label's loss is `-(y - 1) * CEILING` at least. The least loss stays where it was: at the mean
    label, wherever that is below the ceiling's probability.
    """
    known_RK = ~labels_RK.isnan()
    label_RK = torch.where(known_RK, labels_RK, 0.0)
    logits_RK = logits_RK.float()
    loss_RK = binary_cross_entropy_with_logits(logits_RK, label_RK.clamp_max(1), reduction="none")
    loss_RK = loss_RK - (label_RK - 1).clamp_min(0) * logits_RK.clamp_max(CEILING)
    return (loss_RK * (known_RK * weight_R[:, None])).sum(0)


def mean_over_tasks(sums_K: Tensor, observed_K: Tensor) -> Tensor:
    """The mean over tasks of `sums / observed`; a task that was never observed counts as zero."""
    return (sums_K / observed_K.clamp_min(torch.finfo(torch.float32).tiny)).mean()
