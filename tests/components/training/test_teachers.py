# SPDX-License-Identifier: Apache-2.0
"""Teachers change labels and nothing else, and are as many as a configuration wants."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from components.config import TrainConfig
from components.training.teachers import NO_TEACHERS, Teachers, load_teachers
from feature_repo.specs import KUAIRAND
from model import DCNv2Config, FeedSRConfig, HeadConfig, RankerConfig, build_ranker
from model.checkpoint import save_model
from tests.builders import TINY, make_train_batch
from tests.training_builders import assert_equal

HEAD = HeadConfig(name="linear", gate_dropout=0)
SMALL = FeedSRConfig(width=16, layers=1, heads=2, head=HEAD)
PLAIN = TrainConfig(global_batch=32, micro_batch=16, learning_rate=3e-3)
TAUGHT = PLAIN.model_copy(update={"teachers": 2})


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_a_label_is_mixed_with_what_the_teachers_say_on_average(weight: float) -> None:
    batch = make_train_batch(TINY, 0, [5, 9, 3])
    batch.labels_RK[0, 0] = float("nan")
    rankers = [build_ranker(SMALL, TINY, seed).eval() for seed in (1, 2)]
    mixed = Teachers(rankers, weight).mix(batch)
    outputs = [ranker(batch) for ranker in rankers]
    for name, logits in (("labels_RK", "logits_RK"), ("auxiliary_labels_AK", "auxiliary_AK")):
        first, second = (getattr(output, logits).sigmoid() for output in outputs)
        done = getattr(batch, name)
        wanted = (1 - weight) * done + weight * (first + second) / 2
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


def test_what_was_made_without_teachers_keeps_its_fingerprint() -> None:
    assert not {"teachers", "teacher_weight"} & PLAIN.model_dump().keys()
    assert TrainConfig.model_validate(TAUGHT.model_dump()) == TAUGHT


@pytest.mark.parametrize("ranker", [SMALL, DCNv2Config()], ids=["feed_sr", "dcnv2"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_teachers_of_a_batch_without_targets_or_without_untimed_rows(
    ranker: RankerConfig, share: float
) -> None:
    batch = make_train_batch(KUAIRAND, 0, (3, 2), target_share=share)
    mixed = Teachers([build_ranker(ranker, KUAIRAND, 0).eval()], 0.5).mix(batch)
    assert mixed.labels_RK.shape == batch.labels_RK.shape
    assert mixed.auxiliary_labels_AK.shape == batch.auxiliary_labels_AK.shape
    assert (len(mixed.labels_RK) == 0) == (share == 0.0)


def test_teachers_are_loaded_in_evaluation_mode_or_refused(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    rankers = [build_ranker(SMALL, KUAIRAND, seed) for seed in (1, 2)]
    for folder, ranker in zip(folders, rankers, strict=True):
        save_model(folder, ranker, {})
    config = TAUGHT.model_copy(update={"teacher_weight": 0.25})
    teachers = load_teachers(folders, KUAIRAND, config, torch.device("cpu"))
    assert teachers.weight == 0.25
    for loaded, ranker in zip(teachers.rankers, rankers, strict=True):
        assert not loaded.training
        assert_equal(loaded.state_dict(), ranker.state_dict())
    assert load_teachers([], KUAIRAND, PLAIN, torch.device("cpu")).rankers == []
    with pytest.raises(ValueError, match="want 2 teachers, got 1"):
        load_teachers(folders[:1], KUAIRAND, TAUGHT, torch.device("cpu"))
    with pytest.raises(ValueError, match="no model at"):
        load_teachers([folders[0], tmp_path / "none"], KUAIRAND, TAUGHT, torch.device("cpu"))
