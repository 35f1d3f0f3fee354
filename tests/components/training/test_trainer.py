# SPDX-License-Identifier: Apache-2.0
"""A step against the same step by hand: loss, gradients, clipping, seeds; and runs cut anywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from components.config import TrainConfig
from components.training import trainer as module
from components.training.checkpoints import save_checkpoint
from components.training.data import Weighting, open_loader, to_train_batch
from components.training.distributed import Group
from components.training.teachers import Teachers
from components.training.train import fit
from components.training.trainer import Trainer
from feature_repo.specs import KUAIRAND
from kernels.loader import LoaderConfig
from model import DCNv2Config, FeedSRConfig, HeadConfig, RankerConfig, build_ranker
from model.batch import TrainBatch
from model.checkpoint import load_model
from tests.builders import make_train_batch
from tests.shard_builders import random_lengths, write_shards

HEAD = HeadConfig(name="linear", gate_dropout=0)
STILL = FeedSRConfig(width=16, layers=1, heads=2, embedding_dropout=0, head=HEAD)
NOISY = STILL.model_copy(update={"embedding_dropout": 0.3})
BASELINE = DCNv2Config(embedding_dropout=0, head=HEAD)
PLAIN = TrainConfig(global_batch=8, micro_batch=8, learning_rate=3e-3, gradient_clip=1e9)
WEIGHTING = Weighting(as_of_ms=0, age_half_life_days=60.0, position_half_life=None)
TASKS = len(KUAIRAND.tasks)
NAN = float("nan")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 sequences: two batches of 8 and one of 4."""
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, KUAIRAND, random_lengths(20), shards=2)
    return folder


def make_trainer(
    shards: Path,
    checkpoints: Path,
    config: TrainConfig = PLAIN,
    ranker: RankerConfig = STILL,
    rank: int = 0,
    **more: Any,
) -> Trainer:
    loader_config = LoaderConfig(batch=config.global_batch, seed=config.seed, prefetch=0)
    return Trainer(
        model=build_ranker(ranker, KUAIRAND, 0),
        spec=KUAIRAND,
        config=config,
        loader=open_loader(shards, KUAIRAND, loader_config),
        weighting=WEIGHTING,
        group=Group(rank=rank, world=1, device=torch.device("cpu")),
        inputs="these",
        checkpoints=checkpoints,
        **more,
    )


def batch_of(seed: int = 0, lengths: tuple[int, ...] = (5, 9, 3)) -> TrainBatch:
    return make_train_batch(KUAIRAND, seed, lengths)


def means(logits_RK: Tensor, labels_RK: Tensor, weight_R: Tensor) -> list[Tensor]:
    """Each task's weighted mean cross-entropy over what was observed; zero where nothing was."""
    found = []
    for k in range(labels_RK.shape[1]):
        seen = ~labels_RK[:, k].isnan()
        z, y, w = logits_RK[seen, k].double(), labels_RK[seen, k].double(), weight_R[seen].double()
        loss = -(y * torch.sigmoid(z).log() + (1 - y) * torch.sigmoid(-z).log())
        found.append((w * loss).sum() / w.sum() if seen.any() else z.sum())
    return found


def by_hand(
    ranker: RankerConfig, batch: TrainBatch, auxiliary_weight: float
) -> tuple[list[float], dict[str, Tensor]]:
    """The loss, each task's, and the gradients, from a whole batch at once."""
    model = build_ranker(ranker, KUAIRAND, 0).train()
    output = model(batch)
    tasks = means(output.logits_RK, batch.labels_RK, batch.weight_R)
    loss = torch.stack(tasks).mean()
    if ranker is not BASELINE:
        ones = torch.ones(len(batch.auxiliary_A))
        other = means(output.auxiliary_AK, batch.auxiliary_labels_AK, ones)
        loss = loss + auxiliary_weight * torch.stack(other).mean()
    loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return [t.item() for t in (loss, *tasks)], grads


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    named = trainer.model.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-6, msg=name)


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


def test_each_step_takes_the_next_rate_of_the_schedule(shards: Path, tmp_path: Path) -> None:
    trainer = make_trainer(shards, tmp_path)
    rates = []
    for step in range(trainer.total):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer._take_step([batch_of(step)])
    assert len(set(rates)) == trainer.total == 3
    trainer = make_trainer(shards, tmp_path)
    trainer.run()
    assert [p["lr"] for p in trainer.curve.points] == rates
    assert [p["step"] for p in trainer.curve.points] == [1, 2, 3]


def test_labels_are_mixed_with_what_the_teachers_say(shards: Path, tmp_path: Path) -> None:
    batch = batch_of()
    teachers = Teachers([build_ranker(STILL, KUAIRAND, 1).eval()], 0.75)
    trainer = make_trainer(shards, tmp_path, teachers=teachers)
    losses = trainer._take_step([batch])
    assert losses == pytest.approx(by_hand(STILL, teachers.mix(batch), 1.0)[0], rel=1e-5)
    assert abs(losses[0] - by_hand(STILL, batch, 1.0)[0][0]) > 1e-3


def test_a_run_goes_over_everything_once_an_epoch(shards: Path, tmp_path: Path) -> None:
    config = PLAIN.model_copy(update={"epochs": 2, "micro_batch": 3})
    trainer = make_trainer(shards, tmp_path, config)
    trainer.model.eval()
    trainer.run()
    assert trainer.step == trainer.total == 6
    assert trainer.throughput.sequences == 2 * 20
    assert trainer.throughput.impressions == 2 * sum(random_lengths(20))
    assert trainer.model.training
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


def test_a_process_that_does_not_lead_writes_nothing(shards: Path, tmp_path: Path) -> None:
    config = PLAIN.model_copy(update={"checkpoint_steps": 1})
    folder = tmp_path / "checkpoints"
    make_trainer(shards, folder, config, rank=1).run()
    assert not folder.exists()
    make_trainer(shards, folder, config).run()  # and none after the last step
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000001", "step-00000002"]


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


def test_the_process_that_leads_clears_what_is_not_resumed(shards: Path, tmp_path: Path) -> None:
    trainer = make_trainer(shards, tmp_path)
    for step, inputs in ((1, "these"), (2, "those")):
        save_checkpoint(
            tmp_path, dataclasses.replace(trainer.checkpoint(), step=step, inputs=inputs)
        )
    other = make_trainer(shards, tmp_path, rank=1)
    other.resume()
    assert (other.step, len(list(tmp_path.iterdir()))) == (1, 2)
    trainer.resume()
    assert trainer.step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


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


def test_progress_and_the_log_say_where_a_run_is(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    said: list[Any] = []

    @contextmanager
    def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
        said.append((title, total))
        yield said.append

    monkeypatch.setattr(module, "progress", progress)
    monkeypatch.setattr(module.Throughput, "due", lambda self: True)
    trainer = make_trainer(shards, tmp_path / "all")
    with caplog.at_level("INFO", logger="feedsr.train"):
        trainer.run()
    assert said == [("train", 3), 0, 1, 1, 1]
    (first, *_, last) = [r.getMessage() for r in caplog.records]
    assert first.startswith(f"step 1 of 3: loss {trainer.curve.points[0]['loss']:.4f}, ")
    assert last.startswith("trained 3 steps, ")
    said.clear()
    later = make_trainer(shards, tmp_path / "later")
    save_checkpoint(tmp_path / "later", dataclasses.replace(trainer.checkpoint(), step=2))
    later.run()
    assert said == [("train", 3), 2, 1]
    caplog.clear()
    with caplog.at_level("INFO", logger="feedsr.train"):
        make_trainer(shards, tmp_path / "other", rank=1).run()
    assert said == [("train", 3), 2, 1]
    assert not caplog.records


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_one_number_that_is_not_finite_is_enough_to_stop(
    shards: Path, tmp_path: Path, value: float
) -> None:
    trainer = make_trainer(shards, tmp_path)
    trainer._check_finite([1.0, -2.0], torch.tensor(3.0))
    for losses, norm in (([value, 1.0], 1.0), ([1.0, value], 1.0), ([1.0, 1.0], value)):
        with pytest.raises(ValueError, match=r"stopped at step 0 of 3: .* the gradient norm"):
            trainer._check_finite(losses, torch.tensor(norm))


class _StopError(Exception):
    pass


@pytest.mark.law
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_a_run_killed_after_any_step_ends_at_the_same_weights(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """After the first, at the end of an epoch, and before the last."""
    config = PLAIN.model_copy(update={"epochs": 2, "checkpoint_steps": 1})

    def save(folder: Path, checkpoint: Any) -> Path:
        path = save_checkpoint(folder, checkpoint)
        if checkpoint.step == step:
            raise _StopError
        return path

    def train(out: Path) -> dict[str, Any]:
        return fit(shards, out, NOISY, KUAIRAND, config, "day")

    record = train(tmp_path / "whole")
    assert record["steps"] == 6
    with monkeypatch.context() as patch:
        patch.setattr(module, "save_checkpoint", save)
        with pytest.raises(_StopError):
            train(tmp_path / "killed")
    assert train(tmp_path / "killed") == record
    assert [p["step"] for p in record["curve"]] == [1, 2, 3, 4, 5, 6]
    ours, theirs = (load_model(tmp_path / n)[0].state_dict() for n in ("killed", "whole"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
