# SPDX-License-Identifier: Apache-2.0
"""A step against the same step by hand: loss, gradients, clipping, seeds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from components.training.data import to_train_batch
from components.training.distributed import Group
from components.training.teachers import Teachers
from feature_repo.specs import KUAIRAND
from model import RankerConfig, build_ranker
from tests.builders import make_train_batch
from tests.shard_builders import random_lengths, write_shards
from tests.trainer_builders import (
    BASELINE,
    NOISY,
    PLAIN,
    STILL,
    WEIGHTING,
    assert_close,
    batch_of,
    by_hand,
    gradients,
    make_trainer,
)

TASKS = len(KUAIRAND.tasks)
NAN = float("nan")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 sequences: two batches of 8 and one of 4."""
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, KUAIRAND, random_lengths(20), shards=2)
    return folder


@pytest.mark.parametrize("ranker", [STILL, BASELINE], ids=["feed_sr", "dcnv2"])
@pytest.mark.parametrize("auxiliary_weight", [0.0, 2.0])
def test_a_step_is_the_step_by_hand(
    shards: Path, tmp_path: Path, ranker: RankerConfig, auxiliary_weight: float
) -> None:
    """The auxiliary loss is a part of it where the ranker has a sequence output."""
    batch = batch_of()
    config = PLAIN.model_copy(update={"auxiliary_weight": auxiliary_weight})
    trainer = make_trainer(shards, tmp_path, config, ranker)
    losses = trainer._take_step([batch])
    expected, grads = by_hand(ranker, batch, auxiliary_weight)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert_close(gradients(trainer), grads)
    assert trainer.step == 1
    without = by_hand(ranker, batch, 0.0)[0][0]
    if ranker is STILL and auxiliary_weight:
        assert losses[0] > without + 0.5
    else:
        assert losses[0] == pytest.approx(without, rel=1e-5)


def test_the_same_rows_in_micro_batches_give_the_same_step(shards: Path, tmp_path: Path) -> None:
    """Of unlike sizes, with labels missing in some: the divisor belongs to the whole."""
    trainer = make_trainer(shards, tmp_path)
    packed = next(iter(trainer.loader.epoch()))
    packed.columns["click"][: packed.num_impressions // 3] = -1
    whole = to_train_batch(packed, KUAIRAND, trainer.weighting.weigh(packed))
    losses, grads = by_hand(STILL, whole, 1.0)
    pieces = [to_train_batch(p, KUAIRAND, WEIGHTING.weigh(p)) for p in packed.cut(3)]
    assert [len(p.impressions.cu_seqlens) - 1 for p in pieces] == [3, 3, 2]
    assert trainer._take_step(pieces) == pytest.approx(losses, rel=1e-5)
    assert_close(gradients(trainer), grads)


def test_rows_weigh_as_they_are_told(shards: Path, tmp_path: Path) -> None:
    batch = batch_of()
    heavy = dataclasses.replace(batch, weight_R=torch.arange(1.0, len(batch.weight_R) + 1))
    trainer = make_trainer(shards, tmp_path)
    losses = trainer._take_step([heavy])
    assert losses == pytest.approx(by_hand(STILL, heavy, 1.0)[0], rel=1e-5)
    assert abs(losses[0] - by_hand(STILL, batch, 1.0)[0][0]) > 1e-3


@pytest.mark.parametrize("missing", [[0], list(range(1, TASKS)), list(range(TASKS))])
def test_tasks_that_nobody_observed_in_a_step_stop_nothing(
    shards: Path, tmp_path: Path, missing: list[int]
) -> None:
    batch = batch_of()
    for labels in (batch.labels_RK, batch.auxiliary_labels_AK):
        labels[:, missing] = NAN
    trainer = make_trainer(shards, tmp_path)
    losses = trainer._take_step([batch])
    expected, grads = by_hand(STILL, batch, 1.0)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert [losses[1 + k] for k in missing] == [0.0] * len(missing)
    assert all(losses[1 + k] > 0.01 for k in range(TASKS) if k not in missing)
    assert_close(gradients(trainer), grads)
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_a_step_without_a_target_or_without_an_auxiliary_row_is_a_step(
    shards: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(shards, tmp_path)
    for share in (0.0, 1.0):
        batch = make_train_batch(KUAIRAND, 0, (4, 2), target_share=share)
        assert 0 in (len(batch.target_R), len(batch.auxiliary_A))
        losses = trainer._take_step([batch])
        assert losses[0] > 0.05
        assert (sum(losses[1:]) > 0) == (share == 1.0)


def test_the_gradient_is_cut_to_its_norm_and_no_shorter(shards: Path, tmp_path: Path) -> None:
    batch = batch_of()
    _, grads = by_hand(STILL, batch, 1.0)
    norm = torch.stack([g.norm() for g in grads.values()]).norm().item()
    for limit, scale in ((norm / 3, 1 / 3), (norm * 1.5, 1.0)):
        config = PLAIN.model_copy(update={"gradient_clip": limit})
        trainer = make_trainer(shards, tmp_path, config)
        trainer._take_step([batch])
        assert_close(gradients(trainer), {n: scale * g for n, g in grads.items()})


def test_gradients_do_not_pile_up_over_steps(shards: Path, tmp_path: Path) -> None:
    config = PLAIN.model_copy(update={"learning_rate": 1e-12, "weight_decay": 0.0})
    trainer = make_trainer(shards, tmp_path, config)
    first, second = batch_of(0), batch_of(1)
    trainer._take_step([first])
    trainer._take_step([second])
    assert_close(gradients(trainer), by_hand(STILL, second, 1.0)[1])


def test_dropout_is_drawn_by_seed_step_and_process_alone(shards: Path, tmp_path: Path) -> None:
    batch = batch_of()

    def drawn(seed: int, step: int, rank: int) -> float:
        config = PLAIN.model_copy(update={"seed": seed})
        trainer = make_trainer(shards, tmp_path, config, NOISY, rank)
        trainer.model.train()
        trainer.step = step
        torch.manual_seed(int(torch.randint(1000, ())))
        return trainer._take_step([batch])[0]

    plain = drawn(0, 0, 0)
    assert drawn(0, 0, 0) == plain
    others = [drawn(1, 0, 0), drawn(0, 1, 0), drawn(0, 0, 1)]
    assert len({plain, *others}) == 4
    # what a release may not change: a run that is resumed with the next one goes on as it began
    drawn(2, 3, 1)
    assert torch.initial_seed() == 2_018_009_082 == (2 * 1_000_003 + 3) * 1_009 + 1


def test_labels_are_mixed_with_what_the_teachers_say(shards: Path, tmp_path: Path) -> None:
    batch = batch_of()
    teachers = Teachers([build_ranker(STILL, KUAIRAND, 1).eval()], 0.75)
    trainer = make_trainer(shards, tmp_path, teachers=teachers)
    losses = trainer._take_step([batch])
    assert losses == pytest.approx(by_hand(STILL, teachers.mix(batch), 1.0)[0], rel=1e-5)
    assert abs(losses[0] - by_hand(STILL, batch, 1.0)[0][0]) > 1e-3


def test_a_step_moves_every_weight_that_has_a_gradient_and_a_bad_one_none(
    shards: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(shards, tmp_path)
    model, start = trainer.model, build_ranker(STILL, KUAIRAND, 0).state_dict()
    bad = dataclasses.replace(batch_of(), weight_R=torch.full_like(batch_of().weight_R, NAN))
    with pytest.raises(ValueError, match="stopped at step 0 of 3"):
        trainer._take_step([bad])
    assert trainer.step == 0
    assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())
    trainer._take_step([batch_of()])
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        if parameter.grad.abs().max() > 0:
            assert not torch.equal(parameter.detach(), start[name]), name


class TwoAlike(Group):
    """As if another process had the very same rows."""

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor * 2


def test_two_processes_with_the_same_rows_take_the_step_of_one(
    shards: Path, tmp_path: Path
) -> None:
    """Each gradient is that of the whole, since gradients are averaged over the processes."""
    batch = batch_of()
    trainer = make_trainer(shards, tmp_path)
    trainer.group = TwoAlike(rank=0, world=2, device=torch.device("cpu"))
    losses, grads = by_hand(STILL, batch, 1.0)
    assert trainer._take_step([batch]) == pytest.approx(losses, rel=1e-5)
    assert_close(gradients(trainer), grads)
    trainer._count([batch])
    assert (trainer.throughput.sequences, trainer.throughput.impressions) == (2 * 3, 2 * 17)


def test_gradients_are_exchanged_once_a_step(shards: Path, tmp_path: Path) -> None:
    trainer = make_trainer(shards, tmp_path)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        replica = DistributedDataParallel(trainer.model, find_unused_parameters=True)
        exchanged: list[int] = []

        def hook(state, bucket):  # type: ignore[no-untyped-def]
            exchanged.append(bucket.index())
            future: torch.futures.Future[Tensor] = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        replica.register_comm_hook(None, hook)
        trainer.replica = replica
        trainer._take_step([batch_of(0)])
        once = len(exchanged)
        assert once > 0
        exchanged.clear()
        trainer._take_step([batch_of(1), batch_of(2), batch_of(3)])
        assert len(set(exchanged)) == len(exchanged) <= once
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_one_number_that_is_not_finite_is_enough_to_stop(
    shards: Path, tmp_path: Path, value: float
) -> None:
    trainer = make_trainer(shards, tmp_path)
    trainer._check_finite([1.0, -2.0], torch.tensor(3.0))
    for losses, norm in (([value, 1.0], 1.0), ([1.0, value], 1.0), ([1.0, 1.0], value)):
        with pytest.raises(ValueError, match=r"stopped at step 0 of 3: .* the gradient norm"):
            trainer._check_finite(losses, torch.tensor(norm))
