# SPDX-License-Identifier: Apache-2.0
"""Confidence intervals over members: the same members are drawn again for everything compared.

Each member has a Poisson(1) weight in each resample (Chamandy et al., "Estimating uncertainty for
massive data streams", 2012), a hash of the member and the resample. So weights need no memory, do
not depend on the order of the data, and two scores of the same members are paired. The AUCs of all
resamples come from histograms, whose size does not grow with the log. This module knows no model,
no shards and no files.

Shape suffixes: R rows (impressions with a score); S members; K tasks; B resamples, the first of
which is the data itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from components.sessions import mix

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
BUCKETS = 2048
"""As many rows in a bucket as in any other, so that a flat ranker's logits are told apart too."""
BLOCK_ROWS = 16_384
"""Rows that are counted at once; the first block says where the buckets lie."""
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
    """The AUC of each task in the data and in each resample, fed batch by batch.

    Exact up to BUCKETS rows. Memory is `K * 2 * BUCKETS * (1 + resamples)` int32, 20 MB for six
    tasks and 200 resamples, and one block of rows.

    Args:
        num_tasks: K.
        resamples: how often members are drawn.
    """

    def __init__(self, num_tasks: int, resamples: int) -> None:
        self.resamples = resamples
        self.counts = np.zeros((num_tasks, 2 * BUCKETS, 1 + resamples), np.int32)
        self._edges: list[Floats] = []
        self._waiting: list[tuple[Floats, Floats, Ints]] = []

    def update(self, logits_RK: Floats, labels_RK: Floats, member_R: Ints) -> None:
        """Adds rows; a label that is NaN is left out.

        Raises:
            ValueError: a logit is not finite.
        """
        if not np.isfinite(logits_RK).all():
            raise ValueError("a score is not finite; train the ranker again")
        self._waiting.append((logits_RK, labels_RK, member_R))
        if sum(len(member) for *_, member in self._waiting) >= BLOCK_ROWS:
            self._count()

    def _count(self) -> None:
        """Counts the rows that wait."""
        if not self._waiting:
            return
        logits_RK, labels_RK, member_R = map(np.concatenate, zip(*self._waiting, strict=True))
        self._waiting = []
        self._edges = self._edges or [_edges(logits_R) for logits_R in logits_RK.T]
        member_S, place_R = np.unique(member_R, return_inverse=True)
        weights = member_weights(member_S, self.resamples)
        for k, counts in enumerate(self.counts):
            seen = np.flatnonzero(np.isfinite(labels_RK[:, k]))
            if not len(seen):
                continue
            cell = np.searchsorted(self._edges[k], logits_RK[seen, k], side="right")
            cell += BUCKETS * (labels_RK[seen, k] > 0)
            order = np.argsort(cell, kind="stable")
            cells, first = np.unique(cell[order], return_index=True)
            rows = weights[place_R[seen[order]]]
            counts[cells] += np.add.reduceat(rows, first, axis=0, dtype=np.int32)

    def auc(self) -> npt.NDArray[np.float64]:
        """float64 `[K, 1 + resamples]`, ties counting half; NaN where a class is missing."""
        self._count()
        return np.stack([_auc(counts) for counts in self.counts])


def _edges(logits_R: Floats) -> Floats:
    """Where buckets end, at most `BUCKETS - 1`: every logit's own place, or quantiles."""
    values = np.unique(logits_R)
    if len(values) < BUCKETS:
        return values
    return np.quantile(logits_R, np.arange(1, BUCKETS) / BUCKETS)


def _auc(counts: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    negative, positive = np.split(counts.astype(np.float64), 2)
    below = np.cumsum(negative, axis=0) - negative / 2
    pairs = negative.sum(0) * positive.sum(0)
    return np.asarray((positive * below).sum(0) / np.where(pairs, pairs, np.nan))


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
    if 2 * len(resampled) < len(values_B):
        return None
    return float(np.std(resampled, ddof=1))
