# SPDX-License-Identifier: Apache-2.0
"""The gate: whether the model of a day may be promoted, by thresholds declared before the day.

It reads a day's metrics and says yes or no with a reason per check. It knows nothing of models,
shards or the registry, and it never changes a threshold: what it cannot judge (a metric that is
missing or not a number, too few positives) it refuses.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import DailyConfig, GateConfig
from components.layout.files import write_json
from components.layout.paths import Layout

CANDIDATE, BASELINE, PRODUCTION = "feed_sr", "dcnv2", "production"
"""The rankers in a day's metrics: the model to judge, the baseline, the model in production."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One declared condition.

    Attributes:
        name: what is checked.
        value: what was measured; None where it could not be.
        bound: "at least" or "at most" the threshold.
        reason: one sentence for people.
    """

    name: str
    value: float | None
    bound: str
    threshold: float
    passed: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class GateVerdict:
    """Whether the model with the fingerprint `model` may be promoted, and every check behind it."""

    day: str
    model: str
    passed: bool
    checks: tuple[Check, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """The sentences of the checks that failed; empty where the verdict is yes."""
        return tuple(c.reason for c in self.checks if not c.passed)

    @classmethod
    def read(cls, path: Path) -> GateVerdict:
        """The verdict in a file that `gate` wrote."""
        value = json.loads(path.read_text())
        checks = tuple(Check(**check) for check in value.pop("checks"))
        return cls(checks=checks, **value)


def gate(layout: Layout, day: str, config: DailyConfig) -> GateVerdict:
    """Judges the day's model on the day's metrics and writes `runs/<day>/gate.json`.

    Raises:
        ValueError: the day has not been evaluated.
    """
    path = layout.run(day) / "metrics.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing: evaluate {day} before its gate")
    verdict = judge(json.loads(path.read_text()), config.gate)
    write_json(layout.run(day) / "gate.json", dataclasses.asdict(verdict))
    return verdict


def judge(metrics: dict[str, Any], config: GateConfig) -> GateVerdict:
    """The verdict on a day's metrics, as the step before wrote them; writes nothing."""
    tasks = {name: body["tasks"] for name, body in metrics["rankers"].items()}
    candidate = tasks[CANDIDATE]
    if config.task not in candidate:
        raise ValueError(f"the gate is on task {config.task!r}; have {', '.join(candidate)}")
    checks = [
        *_enough(candidate, config),
        *_absolute(candidate, config),
        *_compared(tasks, config),
        *_calibrated(candidate, config),
    ]
    passed = all(c.passed for c in checks)
    return GateVerdict(
        day=metrics["day"], model=metrics["model"], passed=passed, checks=tuple(checks)
    )


def check(name: str, value: float | None, bound: str, threshold: float) -> Check:
    """Compares one value; a value that is missing or not finite fails."""
    if value is None or not math.isfinite(value):
        reason = f"{name} could not be measured; it must be {bound} {threshold:g}"
        return Check(
            name=name, value=None, bound=bound, threshold=threshold, passed=False, reason=reason
        )
    passed = value >= threshold if bound == "at least" else value <= threshold
    reason = f"{name} is {value:.4g}, {bound} {threshold:g} is {'asked' if passed else 'needed'}"
    return Check(
        name=name, value=value, bound=bound, threshold=threshold, passed=passed, reason=reason
    )


def _enough(candidate: dict[str, Any], config: GateConfig) -> list[Check]:
    """The gate's own task must have enough positives and negatives to be judged on."""
    of = candidate[config.task]
    fewer = min(of["positives"], of["n"] - of["positives"])
    return [check(f"rarer labels of {config.task}", float(fewer), "at least", config.min_positives)]


def _absolute(candidate: dict[str, Any], config: GateConfig) -> list[Check]:
    return [
        check(f"AUC of {config.task}", candidate[config.task]["auc"], "at least", config.min_auc)
    ]


def _compared(tasks: dict[str, Any], config: GateConfig) -> list[Check]:
    """AUC over the baseline, and over production where there is one (a first model has none)."""
    limits = {BASELINE: config.min_over_baseline, PRODUCTION: -config.max_auc_drop}
    mine = tasks[CANDIDATE][config.task]["auc"]
    checks = []
    for other, threshold in limits.items():
        if other not in tasks:
            continue
        theirs = tasks[other][config.task]["auc"]
        value = None if mine is None or theirs is None else mine - theirs
        checks.append(check(f"AUC of {config.task} over {other}", value, "at least", threshold))
    return checks


def _calibrated(candidate: dict[str, Any], config: GateConfig) -> list[Check]:
    """Calibration and a finite log loss of every task with enough positives."""
    checks = []
    for task, of in candidate.items():
        if of["positives"] < config.min_positives:
            continue
        limit = config.max_calibration_error
        checks.append(check(f"calibration error of {task}", of["ece"], "at most", limit))
        if of["log_loss"] is None or not math.isfinite(of["log_loss"]):
            checks.append(check(f"log loss of {task}", None, "at most", math.log(2) * 10))
    return checks
