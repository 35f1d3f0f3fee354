# SPDX-License-Identifier: Apache-2.0
"""The gate: whether the model of a day may be promoted, by thresholds declared before the day.

It reads a day's metrics and says yes or no with a reason per check. It knows nothing of models,
shards or the registry, and it never changes a threshold: what it cannot judge (a metric that is
missing or not a number, too few positives) it refuses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from components.config import DailyConfig, GateConfig
from components.layout.paths import Layout
from components.registry.metrics import DayMetrics, TaskMetrics
from components.registry.records import Check, GateVerdict
from components.registry.run import Run

CANDIDATE, BASELINE, PRODUCTION = "feed_sr", "dcnv2", "production"
"""The rankers in a day's metrics: the model to judge, the baseline, the model in production."""

Tasks = Mapping[str, TaskMetrics]
"""One ranker's metrics by task."""


def gate(layout: Layout, day: str, config: DailyConfig) -> GateVerdict:
    """Judges the day's model on the day's metrics and writes `runs/<day>/gate.json`.

    Raises:
        ValueError: the day has not been evaluated.
    """
    run = Run(layout, day)
    verdict = judge(run.metrics, config.gate)
    run.write(verdict)
    return verdict


def judge(metrics: DayMetrics, config: GateConfig) -> GateVerdict:
    """The verdict on a day's metrics, as the step before wrote them; writes nothing."""
    rankers = {name: ranker.tasks for name, ranker in metrics.rankers.items()}
    candidate = rankers[CANDIDATE]
    if config.task not in candidate:
        raise ValueError(f"the gate is on task {config.task!r}; have {', '.join(candidate)}")
    checks = (
        _enough(candidate, config),
        _absolute(candidate, config),
        *_compared(rankers, config),
        *_calibrated(candidate, config),
    )
    passed = all(check.passed for check in checks)
    return GateVerdict(day=metrics.day, model=metrics.model, passed=passed, checks=checks)


def check(
    name: str, value: float | None, bound: Literal["at least", "at most"], threshold: float
) -> Check:
    """Compares one value; a value that is missing or not finite fails."""
    if value is None or not math.isfinite(value):
        value, passed = None, False
        reason = f"{name} could not be measured; it must be {bound} {threshold:g}"
    else:
        passed = value >= threshold if bound == "at least" else value <= threshold
        asked = "asked" if passed else "needed"
        reason = f"{name} is {value:.4g}, {bound} {threshold:g} is {asked}"
    return Check(
        name=name, value=value, bound=bound, threshold=threshold, passed=passed, reason=reason
    )


def _enough(candidate: Tasks, config: GateConfig) -> Check:
    """The gate's own task must have enough positives and negatives to be judged on."""
    labels = candidate[config.task]
    fewer = min(labels.positives, labels.n - labels.positives)
    return check(f"rarer labels of {config.task}", float(fewer), "at least", config.min_positives)


def _absolute(candidate: Tasks, config: GateConfig) -> Check:
    return check(f"AUC of {config.task}", candidate[config.task].auc, "at least", config.min_auc)


def _compared(rankers: Mapping[str, Tasks], config: GateConfig) -> list[Check]:
    """AUC over the baseline, and over production where there is one (a first model has none)."""
    limits = {BASELINE: config.min_over_baseline, PRODUCTION: -config.max_auc_drop}
    mine = rankers[CANDIDATE][config.task].auc
    checks = []
    for other, threshold in limits.items():
        if other not in rankers:
            continue
        theirs = rankers[other][config.task].auc
        value = None if mine is None or theirs is None else mine - theirs
        checks.append(check(f"AUC of {config.task} over {other}", value, "at least", threshold))
    return checks


def _calibrated(candidate: Tasks, config: GateConfig) -> list[Check]:
    """Calibration and a finite log loss of every task with enough positives."""
    checks = []
    for task, measured in candidate.items():
        if measured.positives < config.min_positives:
            continue
        limit = config.max_calibration_error
        checks.append(check(f"calibration error of {task}", measured.ece, "at most", limit))
        if measured.log_loss is None or not math.isfinite(measured.log_loss):
            checks.append(check(f"log loss of {task}", None, "at most", math.log(2) * 10))
    return checks
