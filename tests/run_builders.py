# SPDX-License-Identifier: Apache-2.0
"""Records of a run as its steps write them, and served requests, with what a test says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from components.evaluation.requests import LoggedRequest
from components.evaluation.scorecard import LOGIT_EDGES
from components.log.counts import IngestCounts, TableCounts
from components.registry.metrics import DayMetrics, FeatureDrift, RankerMetrics
from components.registry.records import CurvePoint, VersionRecord
from feature_repo.spec import Spec

MODEL = "ab" * 32


def ranker_metrics(tasks: Mapping[str, Mapping[str, Any]], **parts: Any) -> RankerMetrics:
    """A ranker of which its metrics by task are known, and the parts that are named."""
    empty = {name: {} for name in ("segments", "within_member", "calibration", "scores")}
    return RankerMetrics.model_validate({"tasks": tasks, **empty, **parts})


def measured(spec: Spec, rng: np.random.Generator, auc: float) -> RankerMetrics:
    """A ranker's metrics with numbers of the right shape and range."""
    tasks, calibration, scores = {}, {}, {}
    for task in spec.tasks:
        tasks[task.name] = {
            "auc": auc + rng.normal(0, 0.004),
            "log_loss": 0.5,
            "ece": 0.01,
            "n": 20_000,
            "positives": int(20_000 * task.prior),
        }
        predicted = np.linspace(0.2, 2.5, 10) * task.prior
        observed = predicted * rng.normal(1, 0.08, 10)
        calibration[task.name] = {
            "predicted": predicted.tolist(),
            "observed": observed.tolist(),
            "count": [2_000] * 10,
        }
        logits = rng.normal(np.log(task.prior / (1 - task.prior)), 0.9, 20_000)
        count = np.histogram(np.clip(logits, -12, 6), LOGIT_EDGES)[0]
        scores[task.name] = {
            "edges": LOGIT_EDGES.tolist(),
            "count": count.tolist(),
            "positives": (count // 4).tolist(),
        }
    names = ("history 0 to 9", "history 10 to 49", "history 200 or more", "posts of the last day")
    within = {task: {"auc": auc - 0.07, "members": 900, "impressions": 14_000} for task in tasks}
    return ranker_metrics(
        tasks,
        segments=dict.fromkeys(names, tasks),
        within_member=within,
        calibration=calibration,
        scores=scores,
    )


def moved(psi: float | None, bins: int = 4) -> FeatureDrift:
    """A feature with an index, whose last bin holds a tenth of training and half of that later."""
    train = (*[0.9 / (bins - 1)] * (bins - 1), 0.1)
    later = (*[0.95 / (bins - 1)] * (bins - 1), 0.05)
    edges = tuple(range(1, bins - 1))
    return FeatureDrift(psi=psi, numeric=True, edges=edges, train=train, eval=later)


def curve(spec: Spec, rng: np.random.Generator, steps: int = 80) -> list[CurvePoint]:
    """A training curve that falls."""
    points = []
    for step in range(1, steps + 1):
        loss = 0.5 + 0.3 * np.exp(-step / 15)
        tasks = {task: loss + rng.normal(0, 0.01) for task in spec.task_names}
        points.append(CurvePoint(step=step, loss=loss, lr=1e-3, tasks=tasks))
    return points


def ingest_counts(day: str, **changes: Any) -> IngestCounts:
    """What ingest says of a day of 20,400 rows."""
    table = TableCounts(read=9, kept=9, duplicates=0, replaced=0, quarantined={})
    whole: dict[str, Any] = {
        "read": 20_400,
        "kept": 20_000,
        "duplicates": 380,
        "quarantined": {"position below -1 <b>": 20},
        "late": 57,
        "untimed": 0,
        "unknown_posts": 0,
        "unknown_members": 0,
        "sessions": 900,
        "ignored_columns": [],
        "posts": table,
        "members": table,
    }
    return IngestCounts(day=day, **{**whole, **changes})


def day_metrics(
    spec: Spec, day: str, rankers: Mapping[str, RankerMetrics], **changes: Any
) -> DayMetrics:
    """The metrics of a day without a model in production and without drift."""
    whole = {
        "day": day,
        "model": MODEL,
        "production": None,
        "production_note": "",
        "spec_hash": spec.hash,
        "freshness": "day",
        "position": 5,
        "rankers": {name: ranker.plain() for name, ranker in rankers.items()},
        "drift": {},
    }
    return DayMetrics.model_validate({**whole, **changes})


def version_record(spec: Spec, version: str, **changes: Any) -> VersionRecord:
    """A version that the gate let through, of the day that its name begins with."""
    day = version[:10]
    whole = {
        "day": day,
        "version": version,
        "model": MODEL,
        "ranker": "feed_sr",
        "spec": spec.name,
        "spec_hash": spec.hash,
        "freshness": "day",
        "metrics": {},
        "gate": {"day": day, "model": MODEL, "passed": True, "checks": []},
    }
    return VersionRecord.model_validate({**whole, **changes})


def logged_request(member_id: int, post_ids: list[int], **fields: Any) -> LoggedRequest:
    """A served request of a new member, scored by a model that is gone."""
    whole: dict[str, Any] = {
        "time_ms": 0,
        "request": {},
        "history": b"",
        "candidates": b"",
        "probabilities": [],
        "model_version": "none",
        "dtype": "float32",
    }
    return LoggedRequest(member_id=member_id, post_ids=post_ids, **{**whole, **fields})
