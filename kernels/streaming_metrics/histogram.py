# SPDX-License-Identifier: Apache-2.0
"""Streaming AUC, log loss and calibration from a histogram of logits; knows no model and no files.

What is kept are two arrays, whose sums over shards, ranks or days are those of all of them.

Shape suffixes: R rows; K tasks; B buckets; C calibration bins.
"""

from __future__ import annotations

import functools
import logging
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels._native import native

Floats = npt.NDArray[np.floating[Any]]
Counts = npt.NDArray[np.int64]

SPREAD = 8.0
"""Half of the buckets lie between the logits -SPREAD and SPREAD, the finest at 0."""


_log = logging.getLogger(__name__)


@functools.cache
def _compiled() -> ModuleType | None:
    """The compiled update, or None for NumPy's; logs which, and why, once."""
    module, reason = native("streaming_metrics")
    _log.info("streaming_metrics: %s: %s", "NumPy" if module is None else "native", reason)
    return module


class StreamingMetrics:
    """Metrics of K tasks, fed batch by batch.

    Buckets are equal steps of `x / (SPREAD + |x|)`, so every finite logit has one and none is
    clipped. Scores within a bucket's width of each other are not told apart: where the scores are
    held, and where something is decided, take the exact metrics of `reference.py`.

    Attributes:
        num_tasks: K.
        buckets: B; 16384 hold the AUC of continuous scores within 1e-5 (see README).
        counts: int64 `[2, K, B]`, observed negatives and positives by bucket.
        loss: float64 `[K]`, summed cross-entropy in nats.
    """

    def __init__(self, num_tasks: int, buckets: int = 16384) -> None:
        if num_tasks < 1 or buckets < 2:
            raise ValueError(
                f"StreamingMetrics({num_tasks}, {buckets}): want at least 1 task and 2 buckets"
            )
        self.num_tasks, self.buckets = num_tasks, buckets
        self.counts: Counts = np.zeros((2, num_tasks, buckets), np.int64)
        self.loss = np.zeros(num_tasks)

    def update(self, logits_RK: Floats, labels_RK: Floats) -> None:
        """Adds a batch.

        Args:
            logits_RK: `[R, K]`; what is neither float32 nor float64 is counted as float64.
            labels_RK: `[R, K]` of 0, 1 or NaN (not observed; its logit is not looked at).

        Raises:
            ValueError: a wrong shape, a label that is none of these, or a logit that is not
                finite; the state is then as before.
        """
        logits_RK, labels_RK = np.asarray(logits_RK), np.asarray(labels_RK)
        self._check_shapes(logits_RK, labels_RK)
        if logits_RK.dtype not in (np.float32, np.float64):
            logits_RK = logits_RK.astype(np.float64)
        compiled = _compiled()
        if compiled is not None:
            logits = np.ascontiguousarray(logits_RK)
            labels = np.ascontiguousarray(labels_RK, logits.dtype)
            if compiled.update(logits, labels, self.counts, self.loss, SPREAD):
                return
        self._update_in_numpy(logits_RK, labels_RK)

    def _update_in_numpy(self, logits_RK: Floats, labels_RK: Floats) -> None:
        """The oracle and the fallback; it says what is wrong with a batch that is refused."""
        known_RK = ~np.isnan(labels_RK)
        x, y = logits_RK[known_RK], labels_RK[known_RK]
        task = np.broadcast_to(np.arange(self.num_tasks), known_RK.shape)[known_RK]
        _check_values(x, y)
        slot = (y.astype(np.int64) * self.num_tasks + task) * self.buckets + self._bucket(x)
        loss = np.maximum(x, 0) - x * y + np.log1p(np.exp(-np.abs(x)))
        self.counts += np.bincount(slot, minlength=self.counts.size).reshape(self.counts.shape)
        self.loss += np.bincount(task, weights=loss, minlength=self.num_tasks)

    def merge(self, other: StreamingMetrics) -> None:
        """Adds what another one has counted; ValueError if it counts other tasks or buckets."""
        if other.counts.shape != self.counts.shape:
            raise ValueError(
                f"cannot merge metrics of {other.num_tasks} tasks and {other.buckets} buckets into "
                f"{self.num_tasks} tasks and {self.buckets} buckets; build both alike"
            )
        self.counts += other.counts
        self.loss += other.loss

    @property
    def n(self) -> Counts:
        """int64 `[K]`, observed labels."""
        return np.asarray(self.counts.sum((0, 2)))

    @property
    def positives(self) -> Counts:
        """int64 `[K]`, observed positives."""
        return np.asarray(self.counts[1].sum(-1))

    def auc(self) -> npt.NDArray[np.float64]:
        """`[K]`, the share of rightly ordered pairs, one bucket's count half; NaN for one class."""
        negative_KB, positive_KB = self.counts
        below_KB = np.cumsum(negative_KB, axis=-1) - 0.5 * negative_KB
        pairs_K = (self.n - self.positives) * self.positives.astype(np.float64)
        return _ratio((positive_KB * below_KB).sum(-1), pairs_K)

    def log_loss(self) -> npt.NDArray[np.float64]:
        """`[K]`, mean cross-entropy in nats, not rounded to buckets; NaN without labels."""
        return _ratio(self.loss, self.n)

    def ece(self, bins: int = 10) -> npt.NDArray[np.float64]:
        """`[K]`, expected calibration error: |predicted - observed| of bins, weighted by count."""
        predicted, observed, count = self.calibration(bins)
        gap_KC = np.where(count > 0, np.abs(predicted - observed), 0.0)
        return _ratio((gap_KC * count).sum(-1), self.n)

    def calibration(
        self, bins: int = 10
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], Counts]:
        """The calibration curve over bins of (nearly) equal count, by rising prediction.

        Equal counts keep rare tasks readable: all their probabilities would fall into the first of
        bins of equal width. A bucket is never divided, so bins of few or tied scores can be empty.

        Returns:
            mean predicted probability and observed rate, float64 `[K, C]`, NaN where a bin is
            empty; and the observed labels, int64 `[K, C]`.
        """
        if bins < 1:
            raise ValueError(f"bins is {bins}, want at least 1")
        total_KB = self.counts.sum(0)
        middle_KB = np.cumsum(total_KB, axis=-1) - 0.5 * total_KB
        share_KB = middle_KB / np.maximum(self.n, 1)[:, None]
        bin_KB = np.minimum((share_KB * bins).astype(np.int64), bins - 1)
        slot = (bin_KB + np.arange(self.num_tasks)[:, None] * bins).ravel()

        def summed(weights_KB: Floats | Counts) -> npt.NDArray[np.float64]:
            size = self.num_tasks * bins
            sums = np.bincount(slot, weights_KB.ravel(), size).astype(np.float64)
            return sums.reshape(self.num_tasks, bins)

        count = summed(total_KB)
        predicted = summed(total_KB * self.probability_B())
        observed = summed(self.counts[1])
        return _ratio(predicted, count), _ratio(observed, count), count.astype(np.int64)

    def probability_B(self) -> npt.NDArray[np.float64]:
        """float64 `[B]`, the probability in the middle of each bucket."""
        step = (np.arange(self.buckets) + 0.5) * (2.0 / self.buckets) - 1.0
        logit = SPREAD * step / (1.0 - np.abs(step))
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logit)))

    def _bucket(self, logits: Floats) -> Counts:
        """int64, the bucket of each logit."""
        step = logits / (SPREAD + np.abs(logits))
        bucket = ((step + 1.0) * (0.5 * self.buckets)).astype(np.int64)
        return np.minimum(bucket, self.buckets - 1)

    def _check_shapes(self, logits_RK: Floats, labels_RK: Floats) -> None:
        fits = logits_RK.ndim == 2 and logits_RK.shape[1] == self.num_tasks
        if not fits or logits_RK.shape != labels_RK.shape:
            raise ValueError(
                f"logits {list(logits_RK.shape)} and labels {list(labels_RK.shape)}, "
                f"want both [rows, {self.num_tasks}]"
            )


def _check_values(x: Floats, y: Floats) -> None:
    if not np.isfinite(x).all():
        raise ValueError(
            f"{int((~np.isfinite(x)).sum())} of {x.size} logits are not finite; "
            "the model has diverged"
        )
    if not ((y == 0) | (y == 1)).all():
        wrong = y[(y != 0) & (y != 1)][0]
        raise ValueError(f"a label is {wrong}, want 0, 1, or NaN where it was not observed")


def _ratio(above: Floats, below: Floats | Counts) -> npt.NDArray[np.float64]:
    """`above / below`, NaN where `below` is 0."""
    return np.asarray(above / np.where(below == 0, np.nan, below))
