# SPDX-License-Identifier: Apache-2.0
"""Which days a run trains on and which weights it starts from.

A plan is kept with the run, so that every step of it has the same one and a day whose model is
promoted never starts from its own weights. It knows the registry's records and the names of days;
it never looks at a log or at weights.
"""

from __future__ import annotations

from components.config import DailyConfig
from components.layout.files import digest
from components.layout.paths import Layout
from components.registry import versions
from components.registry.gate import BASELINE
from components.registry.records import Plan, TrainedModel
from components.registry.run import Run


def plan(layout: Layout, day: str, config: DailyConfig, *, renew: bool = False) -> Plan:
    """The day's plan: the one that was written, or a new one (also when the configuration changed).

    Args:
        layout: the run's root.
        day: the as-of day.
        config: what the run is asked to train.
        renew: a run begins: plan anew where production was moved (a rollback, the promotion of an
            earlier day) to another version older than the day. Later steps of the run keep to it.

    Raises:
        ValueError: `day` is not a day, the plan that was written is damaged, or the version in
            production is gone from the registry.
    """
    run = Run(layout, day)
    if run.holds(Plan):
        kept = run.plan
        if kept.config == fingerprint(config) and not (renew and _moved(layout, kept)):
            return kept
    made = _make(layout, day, config)
    run.write(made)
    return made.under(layout.root)


def fingerprint(config: DailyConfig) -> str:
    """16 hex digits over what decides whether weights fit: spec, freshness and both rankers.

    Recipes and thresholds are not among them: with another gate, a day keeps its start.
    """
    asked = config.model_dump_json(include={"spec_name", "freshness", "feed_sr", "dcnv2"})
    text = asked + config.spec.hash
    return digest(text)


def _moved(layout: Layout, kept: Plan) -> bool:
    """Whether another version than the planned one, older than the day, is in production."""
    now = versions.current(layout)
    if now == kept.production or now is None:
        return False
    return versions.version_record(layout, now).day < kept.day


def _make(layout: Layout, day: str, config: DailyConfig) -> Plan:
    """A new plan; its folders are relative to the root, so that a root can be moved."""
    production = versions.current(layout)
    why_cold = _why_cold(layout, day, config, production)
    cold = Plan(
        day=day,
        through_day=config.spec.days_after(day, -1),
        after_day=None,
        start=None,
        baseline_start=None,
        production=production,
        reason=f"cold start: {why_cold}",
        config=fingerprint(config),
    )
    if why_cold or production is None:
        return cold
    return _warm(cold, layout, production, config)


def _warm(cold: Plan, layout: Layout, production: str, config: DailyConfig) -> Plan:
    """The plan that goes on from the version in production."""
    trained = versions.version_record(layout, production).day
    after = config.spec.days_after(trained, -1)
    start = versions.version_folder(layout, production).relative_to(layout.root)
    changes = {
        "after_day": after,
        "start": start,
        "baseline_start": layout.model(trained, BASELINE).relative_to(layout.root),
        "reason": f"warm start from {production}, trained through {after}",
    }
    return cold.model_copy(update=changes)


def _why_cold(layout: Layout, day: str, config: DailyConfig, production: str | None) -> str | None:
    """Why the run cannot start from the model in production, or None where it can."""
    if production is None:
        return "there is no model in production"
    record = versions.version_record(layout, production)
    if record.day >= day:
        return f"the model in production, {production}, is not older than {day}"
    if record.spec_hash != config.spec.hash:
        return f"the feature spec changed since {production}"
    if record.freshness != config.freshness:
        return f"{production} was trained for freshness {record.freshness}"
    trained = TrainedModel.beside(versions.version_folder(layout, production))
    if trained is None or trained.config != config.feed_sr.model_dump(mode="json"):
        return f"the model's configuration changed since {production}"
    return _why_no_baseline(layout, record.day, config)


def _why_no_baseline(layout: Layout, day: str, config: DailyConfig) -> str | None:
    """Why the baseline of a day's run is no start, or None where it is one.

    A day may have been run again with another configuration than the one whose model is in
    production.
    """
    trained = TrainedModel.beside(layout.model(day, BASELINE))
    if trained is None:
        return f"the baseline of the run of {day} is gone"
    same = (
        trained.config == config.dcnv2.model_dump(mode="json")
        and trained.spec_hash == config.spec.hash
        and trained.record.freshness == config.freshness
    )
    return None if same else f"the baseline's configuration changed since the run of {day}"
