# SPDX-License-Identifier: Apache-2.0
"""Confidence intervals over members: the same members are drawn again for everything compared.

Each member has a Poisson(1) weight in each resample (Chamandy et al., "Estimating uncertainty for
massive data streams", 2012), a hash of the member and the resample. So weights need no memory, do
not depend on the order of the data, and two scores of the same members are paired. The AUCs of all
resamples are exact. This module knows no model, no shards and no files.

Shape suffixes: R rows (impressions with a score); S members; K tasks; B resamples, the first of
which is the data itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from components.log.sessions import mix

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
BLOCK_ROWS = 16_384
"""Rows, or members, whose weights are handled at once."""
INTERVAL = (2.5, 97.5)
"""The percentiles of the resamples that bound an interval."""
MOST_DRAWN = 16
"""More often than this a member is drawn with probability 1e-14."""

_CUMULATIVE = np.cumsum([math.exp(-1) / math.factorial(n) for n in range(MOST_DRAWN)])


def member_weights(member_S: Ints, resamples: int, seed: int = 0) -> npt.NDArray[np.int32]:
    """How often each member is drawn: int32 `[S, 1 + resamples]`, the first column all ones."""
    drawn = mix(seed, np.asarray(member_S, np.int64)[:, None], np.arange(resamples)[None])
    uniform = drawn / float(2**63)
    weights = np.searchsorted(_CUMULATIVE, uniform, side="right").astype(np.int32)
    return np.concatenate([np.ones((len(weights), 1), np.int32), weights], axis=1)


class BootstrapAuc:
    """The AUC of each task in the data and in each resample, exact, fed batch by batch.

    Memory is the rows, `8 (K + 1)` bytes each, a byte for each member and resample, and one block
    of rows with all their weights.

    Args:
        num_tasks: K.
        resamples: how often members are drawn.
    """

    def __init__(self, num_tasks: int, resamples: int) -> None:
        self.resamples = resamples
        nothing = np.zeros((0, num_tasks), np.float32)
        self._rows: list[tuple[Floats, Floats, Ints]] = [(nothing, nothing, np.zeros(0, np.int64))]

    def update(self, logits_RK: Floats, labels_RK: Floats, member_R: Ints) -> None:
        """Adds rows; a label that is NaN is left out.

        Raises:
            ValueError: a logit is not finite.
        """
        if not np.isfinite(logits_RK).all():
            raise ValueError("a score is not finite; train the ranker again")
        self._rows.append((logits_RK, labels_RK, member_R))

    def auc(self) -> npt.NDArray[np.float64]:
        """float64 `[K, 1 + resamples]`, ties counting half; NaN where a class is missing."""
        logits_RK, labels_RK, member_R = map(np.concatenate, zip(*self._rows, strict=True))
        member_S, place_R = np.unique(member_R, return_inverse=True)
        weights_SB = np.concatenate(
            [member_weights(part, self.resamples).astype(np.int8) for part in _blocks(member_S)]
        )
        aucs = []
        for k in range(logits_RK.shape[1]):
            seen_R = np.isfinite(labels_RK[:, k])
            logits_R, positive_R = logits_RK[seen_R, k], labels_RK[seen_R, k] > 0
            aucs.append(_auc(logits_R, positive_R, weights_SB, place_R[seen_R]))
        return np.stack(aucs)


def _blocks(values: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The values, BLOCK_ROWS at a time; one empty block of none."""
    starts = range(0, max(len(values), 1), BLOCK_ROWS)
    return [values[start : start + BLOCK_ROWS] for start in starts]


def _auc(
    logits_R: Floats, positive_R: Bools, weights_SB: npt.NDArray[np.int8], place_R: Ints
) -> npt.NDArray[np.float64]:
    """The AUC of one task under each column of weights.

    The rows go by in the order of their logits, a block at a time. A tie may begin in one block and
    end in another, so the sums of a block's last logit stay open.
    """
    below_B, wins_B, positives_B = np.zeros((3, weights_SB.shape[1]))
    open_value, open_2B = -math.inf, np.zeros((2, weights_SB.shape[1]))
    for rows in _blocks(np.argsort(logits_R)):
        value_D, group_R = np.unique(logits_R[rows], return_inverse=True)
        sums_2DB = _sums(group_R, positive_R[rows], weights_SB[place_R[rows]])
        if len(value_D) and value_D[0] == open_value:
            sums_2DB[:, 0] += open_2B
        else:
            sums_2DB = np.concatenate([open_2B[:, None], sums_2DB], axis=1)
        open_value, open_2B = value_D[-1] if len(value_D) else open_value, sums_2DB[:, -1]
        negative_DB, positive_DB = sums_2DB[:, :-1]
        up_to_DB = below_B + np.cumsum(negative_DB, axis=0)
        wins_B += (positive_DB * (up_to_DB - negative_DB / 2)).sum(0)
        positives_B += positive_DB.sum(0)
        below_B = below_B + negative_DB.sum(0)
    wins_B += open_2B[1] * (below_B + open_2B[0] / 2)
    pairs_B = (positives_B + open_2B[1]) * (below_B + open_2B[0])
    return np.asarray(wins_B / np.where(pairs_B, pairs_B, np.nan))


def _sums(
    group_R: Ints, positive_R: Bools, weights_RB: npt.NDArray[np.int8]
) -> npt.NDArray[np.float64]:
    """The weights of the negatives and of the positives in each group, `[2, D, B]`.

    The rows are in the order of their groups.
    """
    groups = int(group_R[-1]) + 1 if len(group_R) else 0
    sums = np.zeros((2, groups, weights_RB.shape[1]))
    for label in (0, 1):
        mine = np.flatnonzero(positive_R == label)
        there, first = np.unique(group_R[mine], return_index=True)
        if len(there):
            sums[label, there] = np.add.reduceat(weights_RB[mine], first, dtype=np.int32)
    return sums


def interval(values_B: Floats) -> dict[str, float | None]:
    """The value of the data and its 95% interval over the resamples; None where it is undefined.

    Args:
        values_B: `[1 + resamples]`, the first that of the data.
    """
    resampled = values_B[1:][np.isfinite(values_B[1:])]
    if not np.isfinite(values_B[0]) or 2 * len(resampled) < len(values_B):
        return {"value": None, "low": None, "high": None}
    low, high = np.percentile(resampled, INTERVAL)
    return {"value": float(values_B[0]), "low": float(low), "high": float(high)}


def standard_error(values_B: Floats) -> float | None:
    """The standard deviation over the resamples; None where it is undefined.

    Args:
        values_B: `[1 + resamples]`, the first that of the data.
    """
    resampled = values_B[1:][np.isfinite(values_B[1:])]
    if len(resampled) < 2 or 2 * len(resampled) < len(values_B):
        return None
    return float(np.std(resampled, ddof=1))
