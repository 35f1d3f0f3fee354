# SPDX-License-Identifier: Apache-2.0
"""Which days a run trains on and which weights it starts from.

A plan is kept in runs/<day>/plan.json, so that every step of a run has the same one and a day whose
model is promoted never starts from its own weights. It knows the registry's records and the names
of days; it never looks at a log or at weights.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import DailyConfig
from components.layout.files import digest, write_json
from components.layout.paths import Layout
from components.registry import versions

BASELINE = "dcnv2"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one day's run trains on.

    Attributes:
        through_day: the last day trained on, the day before `day`.
        after_day: the watermark: only later impressions carry a loss; None trains on all of them.
        start: folder of the Feed-SR weights to start from, None is a cold start.
        baseline_start: folder of the baseline's weights of the same run.
        production: the version in production when the day was planned.
        reason: why the run is warm or cold, one sentence for people.
        config: fingerprint of what a plan depends on, see `fingerprint`.
    """

    day: str
    through_day: str
    after_day: str | None
    start: Path | None
    baseline_start: Path | None
    production: str | None
    reason: str
    config: str

    def to_json(self) -> dict[str, Any]:
        """Plain values, paths as text."""
        values = dataclasses.asdict(self)
        return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Plan:
        """The plan that `to_json` wrote."""
        paths = {k: Path(values[k]) for k in ("start", "baseline_start") if values[k] is not None}
        return cls(**{**values, **paths})


def plan(layout: Layout, day: str, config: DailyConfig, *, renew: bool = False) -> Plan:
    """The day's plan: the one that was written, or a new one (also when the configuration changed).

    Paths in plan.json are relative to the root, so that a run's folder can be moved.

    Args:
        layout: the run's root.
        day: the as-of day.
        config: what the run is asked to train.
        renew: a run begins: plan anew where production was moved (a rollback, the promotion of an
            earlier day) to another version older than the day. Later steps of the run keep to it.

    Raises:
        ValueError: `day` is not a day, or the version in production is gone from the registry.
    """
    path = layout.run(day) / "plan.json"
    if path.is_file():
        kept = Plan.from_json(json.loads(path.read_text()))
        if kept.config == fingerprint(config) and not (renew and _moved(layout, kept)):
            return _resolved(kept, layout.root)
    made = _make(layout, day, config)
    write_json(path, made.to_json())
    return _resolved(made, layout.root)


def fingerprint(config: DailyConfig) -> str:
    """16 hex digits over what decides whether weights fit: spec, freshness and both rankers.

    Recipes and thresholds are not among them: with another gate, a day keeps its start.
    """
    asked = config.model_dump_json(include={"spec_name", "freshness", "feed_sr", "dcnv2"})
    text = asked + config.spec.hash
    return digest(text)


def day_before(day: str, config: DailyConfig) -> str:
    """The calendar day before `day`; ValueError if it is not YYYY-MM-DD."""
    return config.spec.day_name(config.spec.day_number(day) - 1)


def _moved(layout: Layout, kept: Plan) -> bool:
    """Whether another version than the planned one, older than the day, is in production."""
    now = versions.current(layout)
    if now == kept.production or now is None:
        return False
    return versions.version_record(layout, now)["day"] < kept.day


def _resolved(made: Plan, root: Path) -> Plan:
    start, baseline = made.start, made.baseline_start
    return dataclasses.replace(
        made, start=start and root / start, baseline_start=baseline and root / baseline
    )


def _make(layout: Layout, day: str, config: DailyConfig) -> Plan:
    production = versions.current(layout)
    why_cold = _why_cold(layout, day, config, production)
    plain = Plan(
        day=day,
        through_day=day_before(day, config),
        after_day=None,
        start=None,
        baseline_start=None,
        production=production,
        reason=f"cold start: {why_cold}",
        config=fingerprint(config),
    )
    if why_cold or production is None:
        return plain
    trained = versions.version_record(layout, production)["day"]
    after = day_before(trained, config)
    return dataclasses.replace(
        plain,
        after_day=after,
        start=versions.version_folder(layout, production).relative_to(layout.root),
        baseline_start=layout.model(trained, BASELINE).relative_to(layout.root),
        reason=f"warm start from {production}, trained through {after}",
    )


def _why_cold(layout: Layout, day: str, config: DailyConfig, production: str | None) -> str | None:
    """Why the run cannot start from the model in production, or None where it can."""
    if production is None:
        return "there is no model in production"
    record = versions.version_record(layout, production)
    if record["day"] >= day:
        return f"the model in production, {production}, is not older than {day}"
    if record["spec_hash"] != config.spec.hash:
        return f"the feature spec changed since {production}"
    if record["freshness"] != config.freshness:
        return f"{production} was trained for freshness {record['freshness']}"
    kept = json.loads((versions.version_folder(layout, production) / "config.json").read_text())
    if kept.get("config") != config.feed_sr.model_dump(mode="json"):
        return f"the model's configuration changed since {production}"
    return _why_no_baseline(layout, record["day"], config)


def _why_no_baseline(layout: Layout, trained: str, config: DailyConfig) -> str | None:
    """Why the baseline of a day's run is no start, or None: a day may have been run again with
    another configuration than the one whose model is in production.
    """
    path = layout.model(trained, BASELINE) / "config.json"
    if not path.is_file():
        return f"the baseline of the run of {trained} is gone"
    kept = json.loads(path.read_text())
    same = (
        kept.get("config") == config.dcnv2.model_dump(mode="json")
        and kept.get("spec_hash") == config.spec.hash
        and kept.get("record", {}).get("freshness") == config.freshness
    )
    return None if same else f"the baseline's configuration changed since the run of {trained}"
