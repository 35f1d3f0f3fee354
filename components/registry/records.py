# SPDX-License-Identifier: Apache-2.0
"""What a run and the registry write down, as values: verdict, plan, parity, versions, promotions.

It knows names and types. Where a run's records lie is `components.registry.run`'s to know, and a
version's `components.registry.versions`'.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, JsonValue

from components.registry.json_record import Record, RunRecord
from components.registry.metrics import TaskMetrics
from feature_repo.spec import Freshness


class Check(Record):
    """One declared condition of the gate.

    Attributes:
        name: what is checked.
        value: what was measured; None where it could not be.
        bound: how the value lies to the threshold.
        reason: one sentence for people.
    """

    name: str
    value: float | None
    bound: Literal["at least", "at most"]
    threshold: int | float
    passed: bool
    reason: str


class GateVerdict(RunRecord):
    """Whether the model with the fingerprint `model` may be promoted, and every check behind it."""

    file = "gate.json"
    step = "gate"
    remedy = "remove it and run feedsr gate again"

    day: str
    model: str
    passed: bool
    checks: tuple[Check, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """The sentences of the checks that failed; empty where the verdict is yes."""
        return tuple(check.reason for check in self.checks if not check.passed)


class Plan(RunRecord):
    """What one day's run trains on.

    Attributes:
        through_day: the last day trained on, the day before `day`.
        after_day: the watermark: only later impressions carry a loss; None trains on all of them.
        start: folder of the Feed-SR weights to start from, None is a cold start.
        baseline_start: folder of the baseline's weights of the same run.
        production: the version in production when the day was planned.
        reason: why the run is warm or cold, one sentence for people.
        config: fingerprint of what a plan depends on, see `components.registry.plan.fingerprint`.
    """

    file = "plan.json"
    step = "ingest"
    remedy = "remove it and run feedsr ingest again"

    day: str
    through_day: str
    after_day: str | None
    start: Path | None
    baseline_start: Path | None
    production: str | None
    reason: str
    config: str

    def under(self, root: Path) -> Plan:
        """The plan with its folders below a root; on disk they are relative to it."""
        folders = {"start": self.start, "baseline_start": self.baseline_start}
        return self.model_copy(update={k: path and root / path for k, path in folders.items()})


class Parity(RunRecord):
    """What the parity step compared, and the largest difference of two scores of each kind.

    Attributes:
        logged: logged requests that were made again.
        probes: requests that the step sent itself.
        skipped: logged requests that cannot be made again, by reason.
        scored: requests whose model was there to score them again.
        bound: how far two scores may be apart.
    """

    file = "parity.json"
    step = "parity"
    remedy = "remove it and run feedsr parity again"

    day: str
    logged: int
    probes: int
    skipped: dict[str, int]
    requests: int
    candidates: int
    scored: int
    served_difference: float
    forward_difference: float
    bound: float


class VersionRecord(Record):
    """What a version remembers of its day; no time of writing, so that it is reproducible.

    Attributes:
        model: the fingerprint of the version's files.
        spec: the feature spec's name.
        metrics: the candidate's, by task.
    """

    day: str
    version: str
    model: str
    ranker: str
    spec: str
    spec_hash: str
    freshness: Freshness
    metrics: dict[str, TaskMetrics]
    gate: GateVerdict


class Promotion(Record):
    """One move of `current`, with its time (UTC, ISO 8601)."""

    action: Literal["promote", "rollback"]
    version: str
    time: str


class CurvePoint(Record):
    """The mean losses of one stretch of a training run, whose last step is `step`."""

    step: int
    loss: float
    lr: float
    tasks: dict[str, float]


class Training(Record):
    """The part of a training record that others than training ask for."""

    model_config = ConfigDict(extra="ignore")

    freshness: Freshness
    curve: tuple[CurvePoint, ...] = ()


class TrainedModel(Record):
    """What the `config.json` beside a model's weights says; all else there is the model's own."""

    model_config = ConfigDict(extra="ignore")

    config: dict[str, JsonValue]
    spec_hash: str
    record: Training

    @classmethod
    def beside(cls, folder: Path) -> TrainedModel | None:
        """The one in a model's folder, or None where no model was written."""
        path = folder / "config.json"
        return cls.read(path) if path.is_file() else None
