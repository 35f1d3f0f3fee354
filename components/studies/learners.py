# SPDX-License-Identifier: Apache-2.0
"""What trials train: rankers of the model, taught by others where that is asked, and trees.

Each is a `components.studies.trial.Learner`. Trained models stay in the work folder, each with the
seconds that it took; trees are trained anew. It scores nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.backtest.prepare import Prepared
from components.backtest.rankers import seeded
from components.layout.files import write_json
from components.layout.locks import locked
from components.studies.config import changed, merged
from components.studies.costs import request_costs, training_costs
from components.studies.lightgbm.ranker import LightGBMConfig, LightGBMRanker, fit_lightgbm
from components.studies.trial import Trained, Trial
from components.training.run import TrainingRun
from components.training.train import fit, teacher_configs
from feature_repo.spec import Spec
from model.checkpoint import load_model
from model.config import RankerConfig
from model.ranker import Ranker


@dataclass(frozen=True)
class ModelLearner:
    """A ranker of `model.build.RANKERS`."""

    config: RankerConfig

    def changed(self, values: Mapping[str, Any]) -> ModelLearner:
        """The same with some values replaced."""
        new = merged(self.config.model_dump(), values)
        return ModelLearner(type(self.config).model_validate(new))

    def fit(self, trial: Trial, shards: Path, work: Path) -> Trained[Ranker]:
        """Trains it cold, after its teachers, which it shares with the trials that they are."""
        run = self._run(trial, shards, work)
        train_timed(replace(run, teachers=self._train_teachers(trial, shards, work)))
        model, _ = load_model(run.out, run.spec)
        return Trained(model=model, seconds=trained_seconds(run.out))

    def costs(self, model: Ranker, prepared: Prepared, spec: Spec) -> dict[str, Any]:
        """Of a step of its training and of a request."""
        training = training_costs(model, prepared.train)
        return {**training, **request_costs(model, prepared.test, spec)}

    def _run(self, trial: Trial, shards: Path, work: Path) -> TrainingRun:
        return TrainingRun(
            shards=shards,
            out=model_folder(trial, work),
            ranker=self.config,
            spec=trial.config.spec,
            config=seeded(trial.config.cold, trial.seed),
            freshness=trial.config.train_freshness or trial.config.freshness,
        )

    def _train_teachers(self, trial: Trial, shards: Path, work: Path) -> tuple[Path, ...]:
        folders = []
        for teacher in _teachers(trial):
            with locked(teacher.lock(work)):  # a trial without teachers waits for none
                train_timed(self._run(teacher, shards, work))
            folders.append(model_folder(teacher, work))
        return tuple(folders)


@dataclass(frozen=True)
class TreeLearner:
    """Boosted trees on the counters."""

    config: LightGBMConfig

    def changed(self, values: Mapping[str, Any]) -> TreeLearner:
        """The same with some values replaced."""
        return TreeLearner(LightGBMConfig.model_validate(merged(self.config.model_dump(), values)))

    def fit(self, trial: Trial, shards: Path, work: Path) -> Trained[LightGBMRanker]:
        """Trains a booster for each task; nothing of them is kept."""
        config = self.config.model_copy(update={"seed": self.config.seed + trial.seed})
        started = time.monotonic()
        model = fit_lightgbm(shards, trial.config.spec, config)
        return Trained(model=model, seconds=round(time.monotonic() - started, 1))

    def costs(self, model: LightGBMRanker, prepared: Prepared, spec: Spec) -> dict[str, Any]:
        """Of a request alone: trees have no step and no operations to count."""
        return request_costs(model, prepared.test, spec)


def model_folder(trial: Trial, work: Path) -> Path:
    """Where the weights of a trial's ranker lie."""
    return trial.folder(work) / "model"


def _teachers(trial: Trial) -> list[Trial]:
    """The trials whose rankers teach this one's: of the next seeds, and without teachers."""
    cold, teachers = trial.config.cold, []
    for training in teacher_configs(cold):
        untaught = changed(trial.config, {"cold": {"teachers": training.teachers}})
        seed = trial.seed + training.seed - cold.seed
        teachers.append(replace(trial, config=untaught, seed=seed))
    return teachers


def train_timed(run: TrainingRun) -> None:
    """Trains, and keeps how long it took; of a model that was there already nothing new."""
    started = time.monotonic()
    fit(run)
    if not _seconds_path(run.out).is_file():
        write_json(_seconds_path(run.out), {"seconds": round(time.monotonic() - started, 1)})


def trained_seconds(folder: Path) -> float:
    """How long a model's training took, when it was trained: another trial may have done it."""
    return float(json.loads(_seconds_path(folder).read_bytes())["seconds"])


def _seconds_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.seconds.json")
