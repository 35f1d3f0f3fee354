# SPDX-License-Identifier: Apache-2.0
"""Records of a run as its steps write them, and served requests, with what a test says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.evaluation.requests import LoggedRequest
from components.registry.metrics import DayMetrics, RankerMetrics
from components.registry.records import VersionRecord
from feature_repo.spec import Spec

MODEL = "ab" * 32


def ranker_metrics(tasks: Mapping[str, Mapping[str, Any]], **parts: Any) -> RankerMetrics:
    """A ranker of which its metrics by task are known, and the parts that are named."""
    empty = {name: {} for name in ("segments", "within_member", "calibration", "scores")}
    return RankerMetrics.model_validate({"tasks": tasks, **empty, **parts})


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
