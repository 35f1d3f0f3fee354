# SPDX-License-Identifier: Apache-2.0
"""One trial: a ranker trained with one configuration and seed, then scored as serving would.

Everything it makes lies under a work folder, by what it was made from: a trial that is run again
finds its shards, its weights and its scores. Knows no experiment and no table.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.backtest.prepare import SIMULATED, config_for, prepare
from components.backtest.split import Split
from components.layout.files import fingerprint, write_json
from components.layout.locks import claimed, locked
from components.layout.paths import Layout, absolute
from components.log.sources import detect_source
from components.studies.config import StudyConfig, changed, study_config
from components.studies.costs import costs, request_ms
from components.studies.lightgbm.ranker import LightGBMConfig, LightGBMRanker, fit_lightgbm
from components.studies.position_bias import position_bias
from components.studies.scores import Scores, score
from components.training.run import TrainingRun
from components.training.train import teacher_configs
from feature_repo.spec import Spec
from model.checkpoint import load_model
from model.config import RankerConfig
from model.ranker import Ranker


@dataclass(frozen=True, kw_only=True)
class Log:
    """Which log a study is on, and where it is cut.

    Attributes:
        data: a folder that a source knows, or "sim:<impressions>[,<name>=<value>...]".
        train_before: the first day that is not trained on.
        test_through: the last day that is ranked.
    """

    data: str
    train_before: str
    test_through: str

    @property
    def kind(self) -> str:
        """The spec that its columns follow, or "own" for a log of another form."""
        if self.data.startswith(SIMULATED):
            return "simulator"
        return detect_source(self.data).spec_name or "own"

    @property
    def setting(self) -> dict[str, str]:
        """What results say of it: its name and days, not where it lies."""
        return {**vars(self), "data": self.name}

    @property
    def name(self) -> str:
        """Its folder's name, or how it is simulated."""
        return absolute(self.data).name

    def config(self, name: str) -> StudyConfig:
        """The configuration of that name, or the shipped one for this kind of log."""
        return study_config(config_for(self.data, name))


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is trained and how: the ranker's configuration apart from the rest of the trial's."""

    log: Log
    config: StudyConfig
    ranker: RankerConfig | LightGBMConfig
    seed: int

    @property
    def fingerprint(self) -> str:
        """16 hex digits over everything that the result is a function of, but the code."""
        values = {
            "log": [self.log.name, self.log.train_before, self.log.test_through],
            "spec": self.config.spec.hash,
            "freshness": [self.config.freshness, self.config.train_freshness],
            "ranker": self.ranker.model_dump(mode="json"),
            "train": self.config.cold.model_dump(mode="json", exclude={"checkpoint_steps"}),
            "seed": self.seed,
        }
        return fingerprint(values)


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


def run_trial(trial: Trial, work: Path) -> Outcome:
    """Trains and scores; what is already in `work` is not made again.

    Returns:
        values (tasks, within_member and segments as `components.evaluation.scorecard` has them,
        seconds, step_ms, parameters, gflop, request_ms; on a simulated log position_bias) and
        scores.

    Raises:
        ValueError: the log, the configuration or a file is wrong; one sentence.
    """
    folder = work / "trials" / trial.fingerprint
    found = Outcome.load(folder)
    if found is not None:
        return found
    train, test = shards(trial, work)
    teachers = _teachers(trial, train, work)
    ranker, seconds = _trained(trial, train, folder / "model", teachers)
    started = time.monotonic()
    card, scores = score(ranker, test, trial.config.spec)
    values = {
        **{name: card[name] for name in ("tasks", "within_member", "segments")},
        "seconds": {
            "train": seconds,
            "score": round(time.monotonic() - started, 1),
        },
        **costs(ranker, train),
        **request_ms(ranker, test, trial.config.spec),
    }
    if trial.log.kind == "simulator":
        home = Layout.at(log_home(work, trial.log, trial.config.spec))
        values["position_bias"] = position_bias(ranker, test, home, trial.config.spec)["tasks"]
    outcome = Outcome(values=values, scores=scores)
    outcome.save(folder)
    return outcome


def _teachers(trial: Trial, shards: Path, work: Path) -> list[Path]:
    """The models that teach the trial's, shared with the trials that they are themselves."""
    if isinstance(trial.ranker, LightGBMConfig):
        return []
    folders = []
    for recipe in teacher_configs(trial.config.cold):
        untaught = changed(trial.config, {"cold": {"teachers": recipe.teachers}})
        further = recipe.seed - trial.config.cold.seed
        teacher = replace(trial, config=untaught, seed=trial.seed + further)
        folders.append(work / "trials" / teacher.fingerprint / "model")
        with claimed_trial(work, teacher, wait=True):  # a trial without teachers waits for none
            _fit(teacher, trial.ranker, shards, folders[-1], [])
    return folders


def _trained(
    trial: Trial, shards: Path, folder: Path, teachers: list[Path]
) -> tuple[Ranker | LightGBMRanker, float]:
    """The ranker and how many seconds it took to train."""
    ranker, spec = trial.ranker, trial.config.spec
    if isinstance(ranker, LightGBMConfig):
        seeded = ranker.model_copy(update={"seed": ranker.seed + trial.seed})
        started = time.monotonic()
        fitted = fit_lightgbm(shards, spec, seeded)
        return fitted, round(time.monotonic() - started, 1)
    _fit(trial, ranker, shards, folder, teachers)
    return load_model(folder, spec)[0], trained_seconds(folder)


def _fit(
    trial: Trial, ranker: RankerConfig, shards: Path, folder: Path, teachers: list[Path]
) -> None:
    config = trial.config
    recipe = config.cold.model_copy(update={"seed": config.cold.seed + trial.seed})
    run = TrainingRun(
        shards=shards,
        out=folder,
        ranker=ranker,
        spec=config.spec,
        config=recipe,
        freshness=config.train_freshness or config.freshness,
        teachers=tuple(teachers),
    )
    with timed(folder):
        run.train()


@contextmanager
def timed(folder: Path) -> Iterator[None]:
    """Keeps how long the training of a model took, for `trained_seconds`, beside its folder; of one
    that was there already nothing new.
    """
    started = time.monotonic()
    yield
    if not _seconds(folder).is_file():
        write_json(_seconds(folder), {"seconds": round(time.monotonic() - started, 1)})


def trained_seconds(folder: Path) -> float:
    """How long a model's training took, when it was trained: another trial may have done it."""
    return float(json.loads(_seconds(folder).read_bytes())["seconds"])


def _seconds(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.seconds.json")


def shards(trial: Trial, work: Path) -> tuple[Path, Path]:
    """The folders of training and test shards, each as fresh as the trial wants it."""
    config = trial.config
    home = log_home(work, trial.log, config.spec)

    def prepared(freshness: Any) -> tuple[Path, Path]:
        split = Split(
            train_before=trial.log.train_before,
            test_through=trial.log.test_through,
            freshness=freshness,
            spec=config.spec,
        )
        with locked(home.with_suffix(".lock")):
            found = prepare(trial.log.data, home, split, config)
        return found.train, found.test

    train, test = prepared(config.freshness)
    if config.train_freshness is not None:
        train, _ = prepared(config.train_freshness)
    return train, test


def log_home(work: Path, log: Log, spec: Spec) -> Path:
    """Where a log lies, ingested: one folder for each log and spec."""
    return work / "logs" / f"{re.sub(r'[^A-Za-z0-9]+', '-', log.name)}-{spec.hash}"


@contextmanager
def claimed_trial(work: Path, trial: Trial, *, wait: bool = False) -> Iterator[bool]:
    """Whether this process has the trial until the end; one that dies lets go.

    With `wait` it has: a process that waits must be one that nobody waits for.
    """
    path = work / "trials" / f"{trial.fingerprint}.lock"
    if wait:
        with locked(path):
            yield True
        return
    with claimed(path) as mine:
        yield mine
