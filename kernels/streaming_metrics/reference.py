# SPDX-License-Identifier: Apache-2.0
"""The specification: AUC, log loss and calibration of one task, exact, from all its scores at once.

Shape suffixes: R rows; D distinct scores; C calibration bins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


def exact_auc(logits: Floats, labels: Floats) -> float:
    """The share of (positive, negative) pairs in the right order, ties counting half.

    Args:
        logits: `[R]`; any score that orders the same gives the same AUC, infinite ones too.
        labels: `[R]` of 0, 1 or NaN (not observed, left out).

    Returns:
        The Mann-Whitney statistic over the number of pairs; NaN without both classes.

    Raises:
        ValueError: the score of an observed label is NaN, or a label is none of these.
    """
    scores, positive = observed(logits, labels)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    _, value, count = np.unique(scores, return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(count) - (count - 1) / 2
    above = middle_rank[value[positive]].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def exact_log_loss(logits: Floats, labels: Floats) -> float:
    """Mean binary cross-entropy in nats of the observed labels; NaN without any.

    Raises:
        ValueError: as `exact_auc`.
    """
    scores, positive = observed(logits, labels)
    wrong = np.where(positive, -scores, scores).astype(np.float64)
    return float(np.logaddexp(0.0, wrong).mean()) if len(wrong) else float("nan")


def exact_calibration(
    logits: Floats, labels: Floats, bins: int = 10
) -> tuple[Doubles, Doubles, Counts]:
    """The calibration curve over bins of (nearly) equal count, by rising prediction.

    Equal scores are never divided: they fall into the bin of their middle, so bins of few or tied
    scores can be empty.

    Returns:
        mean predicted probability and observed rate, float64 `[C]`, NaN where a bin is empty; and
        the observed labels, int64 `[C]`.

    Raises:
        ValueError: as `exact_auc`, or there is no bin.
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}, want at least 1")
    scores, positive = observed(logits, labels)
    _, value_R, count_D = np.unique(scores, return_inverse=True, return_counts=True)
    share_D = (np.cumsum(count_D) - 0.5 * count_D) / max(len(scores), 1)
    bin_R = (share_D * bins).astype(np.int64)[value_R]
    count = np.bincount(bin_R, minlength=bins)
    probability_R = np.exp(-np.logaddexp(0.0, -scores.astype(np.float64)))
    sums = (np.bincount(bin_R, weights, bins) for weights in (probability_R, positive))
    predicted, rate = (total / np.where(count, count, np.nan) for total in sums)
    return predicted, rate, count.astype(np.int64)


def exact_ece(logits: Floats, labels: Floats, bins: int = 10) -> float:
    """Expected calibration error: |predicted - observed| of bins, weighted by count.

    The bins are those of `exact_calibration`; NaN without labels.
    """
    predicted, rate, count = exact_calibration(logits, labels, bins)
    filled = count > 0
    gap = np.abs(predicted - rate)[filled] * count[filled]
    return float(gap.sum() / count.sum()) if filled.any() else float("nan")


def observed(logits: Floats, labels: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The scores whose labels were observed, and which of them are positive.

    Raises:
        ValueError: as `exact_auc`.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    known = ~np.isnan(labels)
    scores, label = logits[known], labels[known]
    if np.isnan(scores).any():
        raise ValueError(
            f"{int(np.isnan(scores).sum())} of {scores.size} scores are NaN; the model has diverged"
        )
    if not ((label == 0) | (label == 1)).all():
        wrong = label[(label != 0) & (label != 1)][0]
        raise ValueError(f"a label is {wrong}, want 0, 1, or NaN where it was not observed")
    return scores, label == 1
