# SPDX-License-Identifier: Apache-2.0
"""A trainer's run: every step of every epoch once, resumed where it stopped, and what it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from components.training import trainer as module
from components.training.checkpoints import save_checkpoint
from feature_repo.specs import KUAIRAND
from tests.shard_builders import random_lengths, write_shards
from tests.trainer_builders import NOISY, PLAIN, batch_of, make_trainer
from tests.training_builders import assert_equal, fitted, weights


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 sequences: two batches of 8 and one of 4."""
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, KUAIRAND, random_lengths(20), shards=2)
    return folder


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
        return fitted(shards, out, NOISY, config)

    record = train(tmp_path / "whole")
    assert record["steps"] == 6
    with monkeypatch.context() as patch:
        patch.setattr(module, "save_checkpoint", save)
        with pytest.raises(_StopError):
            train(tmp_path / "killed")
    assert train(tmp_path / "killed") == record
    assert [p["step"] for p in record["curve"]] == [1, 2, 3, 4, 5, 6]
    assert_equal(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
