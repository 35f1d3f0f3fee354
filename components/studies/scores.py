# SPDX-License-Identifier: Apache-2.0
"""What a ranker says of the test: its metrics and its scores, to compare two rankers by the row.

Every row of a folder of shards gets the logits it would have had when served. Knows no study.

Shape suffixes: R rows; K tasks; S sequences, G those with both classes; B resamples, the first the
data itself; P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from torch import nn

from components.backtest.bootstrap import BootstrapAuc, member_weights, standard_error
from components.backtest.scored import scored_batches
from components.evaluation.scorecard import Scorecard, grouped_auc
from components.layout.files import atomic_path
from feature_repo.spec import Spec
from kernels.streaming_metrics import exact_auc

RESAMPLES = 200
Differences = dict[str, tuple[float | None, float | None]]
"""By task, how much higher an AUC is and the standard error of that; None where there is none."""


@dataclass(frozen=True)
class Scores:
    """The rows of a test in the shards' order.

    Attributes:
        logits_RK: float32.
        labels_RK: float32, NaN where the action was not observed.
        member_R: int64.
        sequence_R: int64, equal for the impressions of a member's day.
    """

    logits_RK: npt.NDArray[np.float32]
    labels_RK: npt.NDArray[np.float32]
    member_R: npt.NDArray[np.int64]
    sequence_R: npt.NDArray[np.int64]

    def auc(self, k: int) -> float:
        """The AUC of task k; NaN without both classes."""
        return float(exact_auc(self.logits_RK[:, k], self.labels_RK[:, k]))

    def save(self, path: Path) -> None:
        """Writes one .npz, whole or not at all."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Scores:
        """What `save` wrote.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            with np.load(path) as arrays:
                return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})
        except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
            raise ValueError(f"{path} holds no scores; delete it, and run again") from error


Pair = tuple[Scores, Scores]
"""A ranker's own and another's, of the same test."""


def score(ranker: nn.Module, folder: Path, spec: Spec) -> tuple[dict[str, Any], Scores]:
    """The scorecard of a ranker over a folder of shards (`Scorecard.result`), and its scores.

    Raises:
        ValueError: there are no shards, they do not fit the spec, or they hold no target.
    """
    card = Scorecard(spec.task_names)
    parts, before = [], 0
    for batch in scored_batches(ranker, folder, spec):
        card.update(batch.logits_RK, batch.rows)
        sequence_R = before + batch.rows.sequence_R
        parts.append((batch.logits_RK, batch.rows.labels_RK, batch.member_R, sequence_R))
        before += batch.packed.num_sequences
    if not any(len(member_R) for *_, member_R, _ in parts):
        raise ValueError(
            f"the shards in {folder} hold nothing to score: the test has no impression"
        )
    return card.result().plain(), Scores(
        *(np.concatenate(part) for part in zip(*parts, strict=True))
    )


def differences(pairs: Sequence[Pair], tasks: tuple[str, ...]) -> list[Differences]:
    """How much higher the first AUC of each pair is, and the standard error of the pairs' mean.

    Members are drawn again, the same ones for all pairs.

    Args:
        pairs: of scores on the same impressions, such as two rankers' by seed.
        tasks: the names of the K tasks.

    Returns:
        One for each pair; None where the test has no such difference: a task with one class, or
        no variation.

    Raises:
        ValueError: the scores of a pair are of different tests.
    """
    if not pairs:
        return []
    _check_same_tests(pairs)
    lead_PKB = np.stack([_resampled(own) - _resampled(other) for own, other in pairs])
    errors = [standard_error(lead_B) for lead_B in lead_PKB.mean(0)]
    return [
        {task: (_finite(own.auc(k) - other.auc(k)), errors[k]) for k, task in enumerate(tasks)}
        for own, other in pairs
    ]


def _resampled(scores: Scores) -> npt.NDArray[np.float64]:
    auc = BootstrapAuc(scores.logits_RK.shape[1], RESAMPLES)
    auc.update(scores.logits_RK, scores.labels_RK, scores.member_R)
    return auc.auc()


def within_differences(pairs: Sequence[Pair], tasks: tuple[str, ...]) -> list[Differences]:
    """`differences` of AUCs within a member's day.

    Of each it is the mean over days with both classes, weighted by their impressions. Members are
    drawn again with all their days.
    """
    if not pairs:
        return []
    _check_same_tests(pairs)
    lead_PKB = np.stack([_within(own, other) for own, other in pairs])
    errors = [standard_error(lead_B) for lead_B in lead_PKB.mean(0)]
    return [
        {task: (_finite(lead_KB[k, 0]), errors[k]) for k, task in enumerate(tasks)}
        for lead_KB in lead_PKB
    ]


def _within(own: Scores, other: Scores) -> npt.NDArray[np.float64]:
    """How much higher the own AUC within a member's day is: `[K, 1 + RESAMPLES]`, data first."""
    _, first_S, place_R = np.unique(own.sequence_R, return_index=True, return_inverse=True)
    member_S = own.member_R[first_S]
    lead_KB = []
    for k in range(own.logits_RK.shape[1]):
        seen_R = np.isfinite(own.labels_RK[:, k])
        labels_R, groups_R = own.labels_RK[seen_R, k], place_R[seen_R]
        auc_G, size_G, place_G = grouped_auc(own.logits_RK[seen_R, k], labels_R, groups_R)
        lead_G = auc_G - grouped_auc(other.logits_RK[seen_R, k], labels_R, groups_R)[0]
        drawn_BG = member_weights(member_S[place_G], RESAMPLES).T * size_G
        total_B = drawn_BG.sum(1)
        lead_KB.append(drawn_BG @ lead_G / np.where(total_B, total_B, np.nan))
    return np.stack(lead_KB)


def _check_same_tests(pairs: Sequence[Pair]) -> None:
    for own, other in pairs:
        same = np.array_equal(own.member_R, other.member_R)
        if not same or not np.array_equal(own.labels_RK, other.labels_RK, equal_nan=True):
            raise ValueError("the two rankers were not scored on the same impressions")


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
