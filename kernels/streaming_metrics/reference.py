# SPDX-License-Identifier: Apache-2.0
"""The specification: exact AUC and log loss of one task, from all its scores at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


def exact_auc(logits: Floats, labels: Floats) -> float:
    """The share of (positive, negative) pairs in the right order, ties counting half.

    Args:
        logits: `[R]`; any score that orders the same gives the same AUC.
        labels: `[R]` of 0, 1 or NaN (not observed, left out).

    Returns:
        The Mann-Whitney statistic over the number of pairs; NaN without both classes.
    """
    known = ~np.isnan(labels)
    scores, positive = np.asarray(logits)[known], np.asarray(labels)[known] == 1
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    _, value, count = np.unique(scores, return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(count) - (count - 1) / 2
    above = middle_rank[value[positive]].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def exact_log_loss(logits: Floats, labels: Floats) -> float:
    """Mean binary cross-entropy in nats of the observed labels; NaN without any."""
    known = ~np.isnan(labels)
    x, y = np.asarray(logits, np.float64)[known], np.asarray(labels, np.float64)[known]
    return float(np.mean(np.logaddexp(0.0, x) - x * y)) if len(x) else float("nan")
