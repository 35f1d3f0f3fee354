# SPDX-License-Identifier: Apache-2.0
"""A trial is made once and found again; what it is made of tells it from any other."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel
from torch import nn

from components.backtest.prepare import Prepared
from components.layout.locks import claimed
from components.studies.config import changed
from components.studies.learners import ModelLearner
from components.studies.scores import Scores
from components.studies.trial import (
    Learner,
    Outcome,
    Trained,
    Trial,
    log_home,
    prepare_trial,
    run_if_free,
    run_in_turn,
    run_trial,
)
from feature_repo.spec import Spec
from feature_repo.specs import SIMULATOR
from model import DCNv2Config, build_ranker
from tests.study_builders import CHOOSING, CONFIG, SPLIT

TRIAL = Trial(split=SPLIT, config=CONFIG, learner=ModelLearner(CONFIG.dcnv2), seed=0)


@dataclass
class Untrained:
    """A learner that learns nothing, and counts how often it was asked to."""

    config: BaseModel = CONFIG.dcnv2
    times: int = 0

    def changed(self, values: Mapping[str, Any]) -> Learner[nn.Module]:
        raise NotImplementedError

    def fit(self, trial: Trial, shards: Path, work: Path) -> Trained[nn.Module]:
        self.times += 1
        assert list(shards.glob("*.arrow"))
        assert isinstance(self.config, DCNv2Config)
        return Trained(model=build_ranker(self.config, trial.config.spec), seconds=12.3)

    def costs(self, model: nn.Module, prepared: Prepared, spec: Spec) -> dict[str, Any]:
        return {"request_ms": 4.5}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("trials")


@pytest.fixture(scope="module")
def trial(work) -> Trial:
    """A trial that was run once."""
    trial = replace(TRIAL, learner=Untrained())
    run_trial(trial, work)
    return trial


def test_an_outcome_has_the_scorecard_the_seconds_the_costs_and_the_bias(work, trial) -> None:
    outcome = run_trial(trial, work)
    assert set(outcome.values) == {
        "tasks",
        "within_member",
        "segments",
        "seconds",
        "request_ms",
        "position_bias",
    }
    assert outcome.values["seconds"]["train"] == 12.3
    assert outcome.values["request_ms"] == 4.5
    assert set(outcome.values["position_bias"]["click"]) == {"residual", "shown"}
    for k, task in enumerate(SIMULATOR.task_names):
        assert outcome.values["tasks"][task]["auc"] == pytest.approx(outcome.scores.auc(k))


def test_a_trial_that_was_run_is_found(work, trial) -> None:
    first = run_trial(trial, work)
    again = run_trial(replace(trial, learner=Untrained()), work)
    assert trial.learner.times == 1  # type: ignore[attr-defined]
    assert again.values == first.values
    np.testing.assert_array_equal(again.scores.logits_RK, first.scores.logits_RK)


def test_a_trial_that_another_process_has_is_left_to_it(work, trial) -> None:
    with claimed(trial.lock(work)) as mine:
        assert mine
        assert run_if_free(trial, work) is None
    assert run_if_free(trial, work) is not None
    assert run_in_turn(trial, work).values == run_trial(trial, work).values


def test_the_outcome_is_kept_whole_or_not_at_all(tmp_path) -> None:
    rows = np.zeros(3, np.int64)
    scores = Scores(np.zeros((3, 1), np.float32), np.ones((3, 1), np.float32), rows, rows)
    assert Outcome.load(tmp_path) is None
    scores.save(tmp_path / "scores.npz")  # a run that was killed before its values were written
    assert Outcome.load(tmp_path) is None
    Outcome(values={"auc": 0.5}, scores=scores).save(tmp_path)
    loaded = Outcome.load(tmp_path)
    assert loaded is not None
    assert loaded.values == {"auc": 0.5}
    np.testing.assert_array_equal(loaded.scores.labels_RK, scores.labels_RK)


def test_training_may_be_fresher_than_the_test(work) -> None:
    config = changed(CONFIG, {"freshness": "30m", "train_freshness": "immediate"})
    prepared = prepare_trial(replace(TRIAL, config=config), work)
    assert prepared.train.name == "train-2026-01-12-immediate"
    assert prepared.test.name == "test-2026-01-12-2026-01-13-30m"
    same = prepare_trial(TRIAL, work)
    assert (same.train.name, same.test.name) == (
        "train-2026-01-12-day",
        "test-2026-01-12-2026-01-13-day",
    )


def test_a_log_lies_by_its_name_and_its_features(work) -> None:
    other = replace(SPLIT, data="sim:4000,ranked=1")
    fewer = changed(CONFIG, {"without": ["affinity"]}).spec
    homes = [
        log_home(work, split, spec)
        for split, spec in ((SPLIT, CONFIG.spec), (other, CONFIG.spec), (SPLIT, fewer))
    ]
    assert len(set(homes)) == 3
    assert homes[0] == work / "logs" / f"sim-4000-{CONFIG.spec.hash}"
    assert log_home(work, CHOOSING, CONFIG.spec) == homes[0]


def test_a_trial_is_another_one_by_anything_it_is_made_of() -> None:
    others = [
        replace(TRIAL, seed=1),
        replace(TRIAL, split=CHOOSING),
        replace(TRIAL, split=replace(SPLIT, data="sim:4001")),
        replace(TRIAL, learner=ModelLearner(CONFIG.feed_sr)),
        replace(TRIAL, config=changed(CONFIG, {"cold": {"epochs": 9}})),
        replace(TRIAL, config=changed(CONFIG, {"freshness": "30m"})),
        replace(TRIAL, config=changed(CONFIG, {"train_freshness": "30m"})),
        replace(TRIAL, config=changed(CONFIG, {"without": ["affinity"]})),
    ]
    assert len({trial.fingerprint for trial in (TRIAL, *others)}) == 1 + len(others)


def test_how_often_a_training_is_saved_makes_no_other_trial() -> None:
    often = replace(TRIAL, config=changed(CONFIG, {"cold": {"checkpoint_steps": 1}}))
    assert often.fingerprint == TRIAL.fingerprint
    assert often.folder(Path("w")) == Path("w/trials") / TRIAL.fingerprint
