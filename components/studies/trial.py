# SPDX-License-Identifier: Apache-2.0
"""One trial: a ranker trained with one configuration and seed, then scored as serving would.

Everything it makes lies under a work folder, by what it was made from: a trial that is run again
finds its shards, its weights and its scores. Knows no experiment and no table. How a ranker is
trained is its `Learner`'s to know.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel
from torch import nn

from components.backtest.prepare import Prepared, prepare
from components.backtest.split import LogSplit
from components.layout.files import fingerprint, write_json
from components.layout.locks import claimed, locked
from components.layout.paths import Layout
from components.studies.config import StudyConfig, changed
from components.studies.position_bias import position_bias
from components.studies.scores import Scores, score
from feature_repo.spec import Spec

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Trained(Generic[Model]):
    """What a learner made.

    Attributes:
        model: gives the logits of a `model.batch.TrainBatch`.
        seconds: how long its training took, when it was trained.
    """

    model: Model
    seconds: float


class Learner(Protocol[Model]):
    """What a trial trains: the configuration of a ranker, and how a ranker is made of it."""

    @property
    def config(self) -> BaseModel:
        """The ranker's configuration, by which trials are told apart."""

    def changed(self, values: Mapping[str, Any]) -> Learner[Model]:
        """The same with some values replaced, nested as they are in the configuration's JSON."""

    def fit(self, trial: Trial, shards: Path, work: Path) -> Trained[Model]:
        """The trial's ranker, trained on a folder of shards or found in the work folder.

        Raises:
            ValueError: the shards or a library that is not installed; one sentence.
        """

    def costs(self, model: Model, prepared: Prepared, spec: Spec) -> dict[str, Any]:
        """What the ranker costs, as JSON values: a request's milliseconds and more."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is trained and how: the ranker apart from the rest of the configuration."""

    split: LogSplit
    config: StudyConfig
    learner: Learner[Any]
    seed: int

    @property
    def fingerprint(self) -> str:
        """16 hex digits over everything that the result is a function of, but the code."""
        values = {
            "log": [self.split.name, self.split.train_before, self.split.test_through],
            "spec": self.config.spec.hash,
            "freshness": [self.config.freshness, self.config.train_freshness],
            "ranker": self.learner.config.model_dump(mode="json"),
            "train": self.config.cold.model_dump(mode="json", exclude={"checkpoint_steps"}),
            "seed": self.seed,
        }
        return fingerprint(values)

    def folder(self, work: Path) -> Path:
        """Where its weights and scores lie."""
        return work / "trials" / self.fingerprint

    def lock(self, work: Path) -> Path:
        """The file that is held by the process that has the trial."""
        return work / "trials" / f"{self.fingerprint}.lock"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a trial: plain values for JSON, and the score of every impression."""

    values: dict[str, Any]
    scores: Scores

    def save(self, folder: Path) -> None:
        """Writes both; a folder with values has scores."""
        self.scores.save(folder / "scores.npz")
        write_json(folder / "result.json", self.values)

    @classmethod
    def load(cls, folder: Path) -> Outcome | None:
        """What `save` wrote, or None where nothing is."""
        if not (folder / "result.json").is_file():
            return None
        values = json.loads((folder / "result.json").read_bytes())
        return cls(values=values, scores=Scores.load(folder / "scores.npz"))


def run_if_free(trial: Trial, work: Path) -> Outcome | None:
    """The trial's outcome; None where another process has the trial now.

    Raises:
        ValueError: see `run_trial`.
    """
    with claimed(trial.lock(work)) as is_free:
        return run_trial(trial, work) if is_free else None


def run_in_turn(trial: Trial, work: Path) -> Outcome:
    """The trial's outcome, once no other process has the trial: for a process that holds none.

    Raises:
        ValueError: see `run_trial`.
    """
    with locked(trial.lock(work)):
        return run_trial(trial, work)


def run_trial(trial: Trial, work: Path) -> Outcome:
    """Trains and scores; what is already in `work` is not made again.

    Returns:
        values (tasks, within_member and segments as `components.evaluation.scorecard` has them,
        seconds, step_ms, parameters, gflop, request_ms; on a simulated log position_bias) and
        scores.

    Raises:
        ValueError: the log, the configuration or a file is wrong; one sentence.
    """
    kept = Outcome.load(trial.folder(work))
    if kept is not None:
        return kept
    prepared = prepare_trial(trial, work)
    trained = trial.learner.fit(trial, prepared.train, work)
    outcome = _scored(trial, trained, prepared, work)
    outcome.save(trial.folder(work))
    return outcome


def _scored(trial: Trial, trained: Trained[Any], prepared: Prepared, work: Path) -> Outcome:
    spec, started = trial.config.spec, time.monotonic()
    card, scores = score(trained.model, prepared.test, spec)
    scoring = round(time.monotonic() - started, 1)
    values = {
        **{name: card[name] for name in ("tasks", "within_member", "segments")},
        "seconds": {"train": trained.seconds, "score": scoring},
        **trial.learner.costs(trained.model, prepared, spec),
    }
    if trial.split.is_simulated:
        home = Layout.at(log_home(work, trial.split, spec))
        values["position_bias"] = position_bias(trained.model, prepared.test, home, spec)["tasks"]
    return Outcome(values=values, scores=scores)


def prepare_trial(trial: Trial, work: Path) -> Prepared:
    """The training and test shards, each as fresh as the trial wants it."""
    prepared = prepare_log(work, trial.split, trial.config)
    if trial.config.train_freshness is None:
        return prepared
    training = changed(trial.config, {"freshness": trial.config.train_freshness})
    return replace(prepared, train=prepare_log(work, trial.split, training).train)


def prepare_log(
    work: Path, split: LogSplit, config: StudyConfig, after_day: str | None = None
) -> Prepared:
    """`prepare` where all studies of a work folder keep the log, one process at a time."""
    home = log_home(work, split, config.spec)
    with locked(home.with_suffix(".lock")):
        return prepare(split, home, config, after_day)


def log_home(work: Path, split: LogSplit, spec: Spec) -> Path:
    """Where a log lies, ingested: one folder for each log and spec."""
    return work / "logs" / f"{re.sub(r'[^A-Za-z0-9]+', '-', split.name)}-{spec.hash}"
