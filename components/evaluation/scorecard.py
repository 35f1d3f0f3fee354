# SPDX-License-Identifier: Apache-2.0
"""What is measured of one ranker's scores: per task, per segment, within members, and their shape.

Decisions are made by these numbers, so they are exact: a scorecard holds the scores of the day that
is judged, 4 bytes an impression and task, beside labels that rankers share. It knows labels and
logits; it knows no model, no shards and no thresholds.

Shape suffixes: R rows (impressions with a score); K tasks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from components.registry.metrics import (
    Calibration,
    RankerMetrics,
    ScoreCounts,
    TaskMetrics,
    WithinMember,
)
from kernels.streaming_metrics import exact_auc, exact_calibration, exact_ece, exact_log_loss

Floats = npt.NDArray[np.floating[Any]]
LOGIT_EDGES = np.linspace(-12.0, 6.0, 73)
"""The buckets of the score distribution, in log-odds, so that rare tasks are readable too."""
CALIBRATION_BINS = 10


def compares_within_day(freshness: str) -> bool:
    """Whether AUC within a member's day is a fair figure.

    A ranker that is fresher than `day` knows some of the day's labels, of which the others are then
    the rest.
    """
    return freshness == "day"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What is known of each scored impression.

    Attributes:
        labels_RK: float32, NaN where the action was not observed.
        sequence_R: int64, equal for impressions of the same member's sequence.
        segments: which rows belong to a segment, boolean `[R]` by name.
    """

    labels_RK: npt.NDArray[np.float32]
    sequence_R: npt.NDArray[np.int64]
    segments: dict[str, npt.NDArray[np.bool_]]


class Scorecard:
    """Metrics of one ranker over all batches."""

    def __init__(self, tasks: tuple[str, ...]) -> None:
        self.tasks = tasks
        self.finite = True
        self._logits = [np.zeros((0, len(tasks)), np.float32)]
        self._labels = [np.zeros((0, len(tasks)), np.float32)]
        self._segments: list[dict[str, npt.NDArray[np.bool_]]] = [{}]
        self.within = WithinMemberAuc(len(tasks))
        self.scores = np.zeros((2, len(tasks), len(LOGIT_EDGES) - 1), np.int64)

    def update(self, logits_RK: npt.NDArray[np.float32], rows: Rows) -> None:
        """Adds the logits of a batch; every row of a sequence must be in the same batch.

        A logit that is not finite leaves the counts right and every metric of the card undefined.
        """
        finite_RK = np.isfinite(logits_RK)
        if not finite_RK.all():
            self.finite = False
            logits_RK = np.where(finite_RK, logits_RK, np.float32(0))
        self._logits.append(logits_RK)
        self._labels.append(rows.labels_RK)
        self._segments.append(rows.segments)
        self.within.update(logits_RK, rows.labels_RK, rows.sequence_R)
        for k in range(len(self.tasks)):
            for label in (0, 1):
                logits_R = logits_RK[rows.labels_RK[:, k] == label, k]
                inside = np.clip(logits_R, LOGIT_EDGES[0], LOGIT_EDGES[-1])
                self.scores[label, k] += np.histogram(inside, LOGIT_EDGES)[0]

    def result(self) -> RankerMetrics:
        """The ranker's metrics; what is undefined (an AUC of one class) is None."""
        logits_RK, labels_RK = np.concatenate(self._logits), np.concatenate(self._labels)
        measured = RankerMetrics(
            tasks=by_task(self.tasks, logits_RK, labels_RK),
            segments={
                name: by_task(self.tasks, logits_RK[mask_R], labels_RK[mask_R])
                for name, mask_R in self._masks()
            },
            within_member=dict(zip(self.tasks, self.within.result(), strict=True)),
            calibration={
                task: calibration(logits_RK[:, k], labels_RK[:, k])
                for k, task in enumerate(self.tasks)
            },
            scores={task: self._score_counts(k) for k, task in enumerate(self.tasks)},
        )
        return measured if self.finite else undefined(measured)

    def _score_counts(self, k: int) -> ScoreCounts:
        return ScoreCounts(
            edges=tuple(LOGIT_EDGES.tolist()),
            count=tuple(self.scores[:, k].sum(0).tolist()),
            positives=tuple(self.scores[1, k].tolist()),
        )

    def _masks(self) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
        """Which rows belong to each segment; none of a batch that does not name it."""
        sizes = [len(logits_RK) for logits_RK in self._logits]
        for name in dict.fromkeys(name for masks in self._segments for name in masks):
            parts = [
                masks.get(name, np.zeros(size, np.bool_))
                for masks, size in zip(self._segments, sizes, strict=True)
            ]
            yield name, np.concatenate(parts)


def by_task(tasks: tuple[str, ...], logits_RK: Floats, labels_RK: Floats) -> dict[str, TaskMetrics]:
    """AUC, log loss, expected calibration error and counts of each task."""
    return {task: task_metrics(logits_RK[:, k], labels_RK[:, k]) for k, task in enumerate(tasks)}


def task_metrics(logits_R: Floats, labels_R: Floats) -> TaskMetrics:
    """AUC, log loss, expected calibration error and counts of one task."""
    return TaskMetrics(
        auc=finite(exact_auc(logits_R, labels_R)),
        log_loss=finite(exact_log_loss(logits_R, labels_R)),
        ece=finite(exact_ece(logits_R, labels_R, CALIBRATION_BINS)),
        n=int(np.isfinite(labels_R).sum()),
        positives=int((labels_R == 1).sum()),
    )


def calibration(logits_R: Floats, labels_R: Floats) -> Calibration:
    """The calibration curve of one task."""
    predicted, observed, count = exact_calibration(logits_R, labels_R, CALIBRATION_BINS)
    return Calibration(
        predicted=tuple(map(finite, predicted)),
        observed=tuple(map(finite, observed)),
        count=tuple(count.tolist()),
    )


class WithinMemberAuc:
    """AUC inside each member's sequence, averaged with the impressions as weights (GAUC).

    Only sequences with both classes count. It is to be claimed for freshness "day" alone: with
    fresher features, later rows of a sequence have seen its earlier labels.
    """

    def __init__(self, num_tasks: int) -> None:
        self.weighted = np.zeros(num_tasks)
        self.impressions = np.zeros(num_tasks, np.int64)
        self.members = np.zeros(num_tasks, np.int64)

    def update(
        self, logits_RK: Floats, labels_RK: Floats, sequence_R: npt.NDArray[np.int64]
    ) -> None:
        """Adds a batch of whole sequences."""
        for k in range(logits_RK.shape[1]):
            seen = np.isfinite(labels_RK[:, k])
            auc, size, _ = grouped_auc(logits_RK[seen, k], labels_RK[seen, k], sequence_R[seen])
            self.weighted[k] += (auc * size).sum()
            self.impressions[k] += size.sum()
            self.members[k] += len(size)

    def result(self) -> list[WithinMember]:
        """One value a task; its AUC is None where no sequence has both classes."""
        auc_K = self.weighted / np.where(self.impressions, self.impressions, np.nan)
        columns = (auc_K, self.members, self.impressions)
        return [
            WithinMember(auc=finite(auc), members=int(members), impressions=int(impressions))
            for auc, members, impressions in zip(*columns, strict=True)
        ]


def grouped_auc(
    scores: Floats, labels: Floats, groups: npt.NDArray[np.int64]
) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The AUC (ties count half), the size and the number of each group that has both labels."""
    if not len(scores):
        return np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64)
    order = np.lexsort((scores, groups))
    scores, positive, groups = scores[order], labels[order] == 1, groups[order]
    new_group = np.concatenate([[True], groups[1:] != groups[:-1]])
    new_tie = new_group | np.concatenate([[True], scores[1:] != scores[:-1]])
    group, tie = np.cumsum(new_group) - 1, np.cumsum(new_tie) - 1
    place = np.arange(len(scores)) - np.flatnonzero(new_group)[group]
    rank = (np.bincount(tie, place) / np.bincount(tie))[tie]
    size, hits = np.bincount(group), np.bincount(group, positive)
    both = (hits > 0) & (hits < size)
    wins = np.bincount(group, rank * positive) - hits * (hits - 1) / 2
    return wins[both] / (hits * (size - hits))[both], size[both], groups[new_group][both]


def undefined(measured: RankerMetrics) -> RankerMetrics:
    """The same with every metric None: a ranker that gives no numbers has no quality."""
    nothing = {"auc": None, "log_loss": None, "ece": None}

    def without(tasks: dict[str, TaskMetrics]) -> dict[str, TaskMetrics]:
        return {task: known.model_copy(update=nothing) for task, known in tasks.items()}

    within = {
        task: known.model_copy(update={"auc": None})
        for task, known in measured.within_member.items()
    }
    changes = {
        "tasks": without(measured.tasks),
        "segments": {name: without(tasks) for name, tasks in measured.segments.items()},
        "within_member": within,
    }
    return measured.model_copy(update=changes)


def finite(value: float) -> float | None:
    """A number for JSON, which holds none that is not finite."""
    return float(value) if math.isfinite(value) else None


def plain(value: Any) -> Any:
    """The value in JSON's own types; what is not a finite number is None."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return finite(float(value))
    return value
