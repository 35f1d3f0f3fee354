# SPDX-License-Identifier: Apache-2.0
"""Processes that train together: as one, in replicas that end before their group, and in which
numbers.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import types
import weakref
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from components.layout.paths import Layout
from components.training.data import Weighting
from components.training.distributed import Group
from components.training.train import train
from components.training.trainer import Trainer
from feature_repo.specs import KUAIRAND
from model import build_ranker
from model.batch import TrainBatch
from model.checkpoint import load_model
from tests.training_builders import (
    DAY,
    SMALL,
    STILL,
    daily_config,
    distance,
    environment,
    prepared,
    training_run,
    weights,
    written_shards,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_shards(tmp_path_factory.mktemp("shards"))


def ended(command: list[str]) -> tuple[int, str]:
    """A command's exit code and what it says; one that does not end is killed with its workers."""
    with subprocess.Popen(
        command, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            _, said = process.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, said


@pytest.mark.parametrize(("major", "computes"), [(7, False), (9, True)])
def test_bf16_is_for_devices_that_compute_in_it_not_for_those_that_emulate_it(
    monkeypatch: pytest.MonkeyPatch, major: int, computes: bool
) -> None:
    properties = types.SimpleNamespace(major=major)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    group = Group(rank=0, world=1, device=torch.device("cuda", 0))
    assert group.autocast._enabled == computes
    assert not Group(rank=0, world=1, device=torch.device("cpu")).autocast._enabled


@pytest.mark.parametrize(("ranker", "teachers"), [("feed_sr", 0), ("dcnv2", 0), ("feed_sr", 1)])
def test_two_processes_train_as_one(shards: Path, tmp_path: Path, ranker, teachers) -> None:
    """On the same global batches; the last one, of a single sequence, leaves a process idle."""
    recipe = {"global_batch": 23, "micro_batch": 4, "teachers": teachers}
    config = daily_config(SMALL.model_copy(update=recipe), STILL)
    one, two = tmp_path / "one", tmp_path / "two"
    prepared(one, shards, config)
    record = train(Layout.at(one), DAY, config, ranker)
    assert record["sequences"] % 23 == 1
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [
        sys.executable,
        *torchrun,
        "-m",
        "components.training.train",
        *prepared(two, shards, config),
    ]
    command += ["--ranker", ranker]
    code, said = ended(command)
    assert code == 0, said
    ours, theirs = (Layout.at(r).model(DAY, ranker) for r in (two, one))
    assert distance(weights(ours), weights(theirs)) < 1e-4
    start = build_ranker(load_model(ours)[0].config, KUAIRAND, 0).state_dict()
    assert distance(weights(theirs), start) > 1e-2
    curve = load_model(ours, KUAIRAND)[1]["curve"]
    for mine, other in zip(curve, record["curve"], strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-4)


class _OneOfTwo(Group):
    """The first of two processes whose other has no row."""

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor


class _Watched(Trainer):
    """Notes what computes, and how long the replica lives."""

    computed: ClassVar[list[weakref.ref[nn.Module]]] = []

    def _sums(self, batch: TrainBatch) -> Tensor:
        self.computed.append(weakref.ref(self.replica))
        self.replicated = isinstance(self.replica, DistributedDataParallel)
        return super()._sums(batch)


@pytest.mark.parametrize("world", [1, 2])
def test_processes_that_train_together_do_it_in_replicas_that_end_before_their_group(
    shards: Path, tmp_path: Path, world: int
) -> None:
    group = _OneOfTwo(rank=0, world=world, device=torch.device("cpu"))
    trainer = _Watched(
        model=build_ranker(STILL, KUAIRAND, 0),
        spec=KUAIRAND,
        config=SMALL.model_copy(update={"global_batch": 300}),
        loader=training_run(shards, tmp_path / "m").open(group),
        weighting=Weighting(as_of_ms=0, age_half_life_days=60.0, position_half_life=None),
        group=group,
        inputs="",
        checkpoints=tmp_path,
    )
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        trainer.run()
        alive = trainer.computed[-1]() is not None
    finally:
        dist.destroy_process_group()
    assert trainer.replicated == (world == 2)
    assert alive == (world == 1)
