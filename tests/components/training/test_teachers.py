# SPDX-License-Identifier: Apache-2.0
"""Teachers change labels and nothing else, and a run trains those that it was not given."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.config import TrainConfig
from components.training.teachers import NO_TEACHERS, Teachers
from components.training.train import fit
from feature_repo.specs import KUAIRAND
from model import DCNv2Config, FeedSRConfig, HeadConfig, build_ranker
from model.checkpoint import load_model
from tests.builders import TINY, make_train_batch
from tests.shard_builders import random_lengths, write_shards

HEAD = HeadConfig(name="linear", gate_dropout=0)
SMALL = FeedSRConfig(width=16, layers=1, heads=2, head=HEAD)
PLAIN = TrainConfig(global_batch=32, micro_batch=16, learning_rate=3e-3)
TAUGHT = PLAIN.model_copy(update={"teachers": 2})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, KUAIRAND, random_lengths(200), shards=2)
    return folder


def fitted(shards: Path, out: Path, config: TrainConfig, **more) -> dict[str, Tensor]:
    fit(shards, out, SMALL, KUAIRAND, config, "day", **more)
    return load_model(out, KUAIRAND)[0].state_dict()


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_a_label_is_mixed_with_what_the_teachers_say_on_average(weight: float) -> None:
    batch = make_train_batch(TINY, 0, [5, 9, 3])
    batch.labels_RK[0, 0] = float("nan")
    rankers = [build_ranker(SMALL, TINY, seed).eval() for seed in (1, 2)]
    mixed = Teachers(rankers, weight).mix(batch)
    outputs = [ranker(batch) for ranker in rankers]
    for name, logits in (("labels_RK", "logits_RK"), ("auxiliary_labels_AK", "auxiliary_AK")):
        one, two = (getattr(output, logits).sigmoid() for output in outputs)
        done = getattr(batch, name)
        wanted = (1 - weight) * done + weight * (one + two) / 2
        torch.testing.assert_close(getattr(mixed, name), wanted, equal_nan=True)
    assert mixed.labels_RK.isnan().equal(batch.labels_RK.isnan())
    assert mixed.labels_RK[0, 0].isnan()
    assert not mixed.labels_RK.requires_grad
    for field in dataclasses.fields(batch):
        if "labels" not in field.name:
            assert getattr(mixed, field.name) is getattr(batch, field.name)


def test_without_teachers_a_batch_stays_itself() -> None:
    batch = make_train_batch(TINY, 0, [5])
    assert NO_TEACHERS.mix(batch) is batch


def test_a_ranker_without_a_sequence_output_can_teach() -> None:
    batch = make_train_batch(TINY, 0, [5, 9])
    mixed = Teachers([build_ranker(DCNv2Config(), TINY, 0).eval()], 0.5).mix(batch)
    assert mixed.labels_RK.isfinite().sum() == batch.labels_RK.isfinite().sum()


def test_a_run_trains_its_teachers_with_the_next_seeds_and_clears_them(
    shards: Path, tmp_path: Path
) -> None:
    teachers = [tmp_path / f"t{seed}" for seed in (1, 2)]
    for folder, seed in zip(teachers, (1, 2), strict=True):
        fitted(shards, folder, PLAIN.model_copy(update={"seed": seed}))
    given = fitted(shards, tmp_path / "given", TAUGHT, teachers=teachers)
    own = fitted(shards, tmp_path / "own", TAUGHT)
    plain = fitted(shards, tmp_path / "plain", PLAIN)
    assert all(torch.equal(own[name], given[name]) for name in own)
    assert max(float((own[n] - plain[n]).abs().max()) for n in own) > 1e-3
    assert not (tmp_path / "teachers" / "own").exists()
    assert all((folder / "config.json").is_file() for folder in teachers)


def test_another_number_of_teachers_is_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="want 2 teachers, got 0"):
        fitted(shards, tmp_path / "m", TAUGHT, teachers=[])


def test_what_was_made_without_teachers_keeps_its_fingerprint() -> None:
    assert not {"teachers", "teacher_weight"} & PLAIN.model_dump().keys()
    assert TrainConfig.model_validate(TAUGHT.model_dump()) == TAUGHT
