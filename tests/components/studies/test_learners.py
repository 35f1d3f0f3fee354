# SPDX-License-Identifier: Apache-2.0
"""What trials train: models with their teachers, found again, and trees."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.backtest.prepare import Prepared
from components.studies.config import changed
from components.studies.learners import (
    ModelLearner,
    TreeLearner,
    model_folder,
    train_timed,
    trained_seconds,
)
from components.studies.lightgbm.ranker import LightGBMConfig
from components.studies.trial import Learner, Trial
from components.training.run import TrainingRun
from feature_repo.specs import SIMULATOR
from model.checkpoint import load_model
from tests.builders import make_train_batch
from tests.shard_builders import random_lengths, write_shards
from tests.study_builders import CONFIG, SPLIT

TREES = TreeLearner(LightGBMConfig(rounds=3, patience=2, holdout=0.0, num_leaves=3))
TRIAL = Trial(split=SPLIT, config=CONFIG, learner=ModelLearner(CONFIG.dcnv2), seed=0)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Prepared:
    folder = tmp_path_factory.mktemp("learners")
    for number, side in enumerate(("train", "test")):
        write_shards(folder / side, SIMULATOR, random_lengths(60, number), seed=number)
    return Prepared(train=folder / "train", test=folder / "test", stages={})


@pytest.fixture(scope="module")
def work(prepared) -> Path:
    return prepared.train.parent / "work"


def weights(folder: Path) -> tuple[int, bytes]:
    path = folder / "model.safetensors"
    return path.stat().st_mtime_ns, path.read_bytes()


def test_a_model_is_trained_once_and_says_how_long_it_took_then(prepared, work) -> None:
    trained = TRIAL.learner.fit(TRIAL, prepared.train, work)
    folder = model_folder(TRIAL, work)
    kept, seconds = weights(folder), folder.with_name("model.seconds.json")
    seconds.write_text(json.dumps({"seconds": 123.4}))
    again = TRIAL.learner.fit(TRIAL, prepared.train, work)
    assert weights(folder) == kept
    assert again.seconds == 123.4 != trained.seconds
    pairs = zip(trained.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_a_seed_is_counted_from_the_configurations_own(prepared, work) -> None:
    seeds = changed(CONFIG, {"cold": {"seed": 5}})
    trial = replace(TRIAL, config=seeds, seed=2)
    trial.learner.fit(trial, prepared.train, work)
    _, record = load_model(model_folder(trial, work), SIMULATOR)
    assert record["inputs"]["train"]["seed"] == 7


def test_teachers_are_the_trials_of_the_next_seeds_and_shared_with_them(prepared, work) -> None:
    taught = replace(TRIAL, config=changed(CONFIG, {"cold": {"teachers": 1}}))
    teacher = replace(TRIAL, seed=1)
    taught.learner.fit(taught, prepared.train, work)
    kept = weights(model_folder(teacher, work))
    assert trained_seconds(model_folder(teacher, work)) >= 0
    teacher.learner.fit(teacher, prepared.train, work)
    assert weights(model_folder(teacher, work)) == kept
    assert kept[1] != weights(model_folder(taught, work))[1]
    assert not (taught.folder(work) / "teachers").exists()


def test_a_training_that_fails_is_not_timed(prepared, work, tmp_path) -> None:
    run = TrainingRun(
        shards=tmp_path,
        out=tmp_path / "model",
        ranker=CONFIG.dcnv2,
        spec=SIMULATOR,
        config=CONFIG.cold,
        freshness="day",
    )
    with pytest.raises(ValueError, match="there are no shards"):
        train_timed(run)
    assert not list(tmp_path.glob("*.json"))


def test_trees_are_trained_by_the_trials_seed(prepared, work) -> None:
    pytest.importorskip("lightgbm")
    batch = make_train_batch(SIMULATOR, 1, [9, 12])
    logits = []
    for seed in (0, 1, 0):
        trial = replace(TRIAL, learner=TREES, seed=seed)
        logits.append(TREES.fit(trial, prepared.train, work).model(batch).logits_RK)
    assert torch.equal(logits[0], logits[2])
    assert not torch.equal(logits[0], logits[1])
    assert not model_folder(replace(TRIAL, learner=TREES), work).exists()


@pytest.mark.parametrize(
    ("learner", "kinds"),
    [(TRIAL.learner, {"parameters", "gflop", "step_ms"}), (TREES, set())],
    ids=["model", "trees"],
)
def test_both_cost_a_request_and_a_model_a_step_too(
    prepared, work, learner: Learner, kinds: set[str]
) -> None:
    pytest.importorskip("lightgbm")
    trained = learner.fit(replace(TRIAL, learner=learner), prepared.train, work)
    costs = learner.costs(trained.model, prepared, SIMULATOR)
    request = {"request_ms", "request_impressions", "request_candidates"}
    assert set(costs) == request | kinds
    assert costs["request_ms"] > 0
    json.dumps(costs)


def test_changed_values_leave_the_others() -> None:
    wider = ModelLearner(CONFIG.feed_sr).changed({"width": 32, "head": {"hidden": 2}})
    assert wider.config == CONFIG.feed_sr.model_copy(
        update={"width": 32, "head": CONFIG.feed_sr.head.model_copy(update={"hidden": 2})}
    )
    assert TREES.changed({"num_leaves": 7}).config.rounds == TREES.config.rounds
    assert TREES.changed({}) == TREES
    for learner in (wider, TREES):
        with pytest.raises(ValueError, match="colour"):
            learner.changed({"colour": 1})
