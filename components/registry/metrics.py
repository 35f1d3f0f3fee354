# SPDX-License-Identifier: Apache-2.0
"""What is measured of a day, as values: every ranker's quality and the drift of the features.

It holds numbers. What they are measured on is `components.evaluation`'s to know, and whether they
are good enough is the gate's. A metric that is undefined (an AUC of one class) is None.
"""

from __future__ import annotations

from components.registry.json_record import Record, RunRecord
from feature_repo.spec import Freshness


class TaskMetrics(Record):
    """How well one ranker predicts one task, over `n` labels of which `positives` are ones."""

    auc: float | None
    log_loss: float | None
    ece: float | None
    n: int
    positives: int


class WithinMember(Record):
    """The AUC inside a member's sequence, the mean over members weighted by their impressions."""

    auc: float | None
    members: int
    impressions: int


class Calibration(Record):
    """By bin of rising prediction: the mean of it, the observed rate, and how many labels."""

    predicted: tuple[float | None, ...]
    observed: tuple[float | None, ...]
    count: tuple[int, ...]


class ScoreCounts(Record):
    """How many scores, and how many of positives, fell between each two edges (log-odds)."""

    edges: tuple[float, ...]
    count: tuple[int, ...]
    positives: tuple[int, ...]


class RankerMetrics(Record):
    """All that is measured of one ranker, by task; `segments` by the segment's name before."""

    tasks: dict[str, TaskMetrics]
    segments: dict[str, dict[str, TaskMetrics]]
    within_member: dict[str, WithinMember]
    calibration: dict[str, Calibration]
    scores: dict[str, ScoreCounts]


class FeatureDrift(Record):
    """How one context feature is distributed in training and on the day.

    Attributes:
        psi: the population stability index; None where a sample has no rows.
        numeric: whether the bins are cut at deciles of training, and not codes.
        edges: where each bin but the first begins.
        train: shares of the bins in training, the last one of what is missing.
        eval: the same on the day.
    """

    psi: float | None
    numeric: bool
    edges: tuple[float, ...]
    train: tuple[float, ...]
    eval: tuple[float, ...]


class DayMetrics(RunRecord):
    """What the evaluation of a day came to.

    Attributes:
        model: the candidate's fingerprint.
        production: the version in production when the day was planned.
        production_note: why production is not among the rankers; "" where it is.
        position: the feed position that every target was scored at.
        rankers: what was measured of each, by name.
        drift: by context feature.
    """

    file = "metrics.json"
    step = "evaluate"
    remedy = "remove it and run feedsr evaluate again"

    day: str
    model: str
    production: str | None
    production_note: str
    spec_hash: str
    freshness: Freshness
    position: int
    rankers: dict[str, RankerMetrics]
    drift: dict[str, FeatureDrift]

    def most_moved(self, count: int) -> list[tuple[str, FeatureDrift]]:
        """The features with the largest index, the largest first."""
        ordered = sorted(self.drift.items(), key=lambda item: (-(item[1].psi or 0.0), item[0]))
        return ordered[:count]
