# SPDX-License-Identifier: Apache-2.0
"""The training loop: batches to gradients to weights, resumable at every step.

A step is a function of (weights, optimiser state, step number) alone: the loader finds any step's
batch again, dropout is seeded by the step, and the schedule by the step. So a run that continues
from a checkpoint is the run that was killed. This module knows the ranker's `forward` and nothing
of files beyond checkpoints.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from components.config import TrainConfig
from components.console import progress
from components.training.checkpoints import (
    Checkpoint,
    clear_checkpoints,
    newest_checkpoint,
    save_checkpoint,
)
from components.training.curve import Curve, Throughput
from components.training.data import Weighting, to_train_batch
from components.training.distributed import Group
from components.training.loss import mean_over_tasks, observed, task_sums
from components.training.optimizer import make_optimizer, make_schedule, resume_schedule
from components.training.teachers import NO_TEACHERS, Teachers
from feature_repo.spec import Spec
from kernels.loader import Loader, Packed, prefetched
from model.batch import TrainBatch
from model.files import load_optimizer_tensors, optimizer_tensors
from model.ranker import Ranker

log = logging.getLogger("feedsr.train")
PREFETCH = 2


@dataclass(kw_only=True)
class Trainer:
    """One run of training.

    Attributes:
        model: the ranker, on the group's device.
        loader: this process's share of the batches, packed ahead of what the trainer prepares.
        inputs: fingerprint of the run; only its own checkpoints are resumed.
        checkpoints: folder of this run's checkpoints.
        teachers: what they say is mixed into the labels.
    """

    model: Ranker
    spec: Spec
    config: TrainConfig
    loader: Loader
    weighting: Weighting
    group: Group
    inputs: str
    checkpoints: Path
    teachers: Teachers = NO_TEACHERS
    step: int = 0

    def __post_init__(self) -> None:
        self.total = self.config.epochs * self.loader.steps
        self.optimizer = make_optimizer(self.model, self.config)
        self.schedule = make_schedule(self.optimizer, self.config, self.total)
        self.curve = Curve(self.total, self.spec.task_names)
        self.throughput = Throughput()
        self.replica: nn.Module = self.model

    def run(self) -> None:
        """Trains to the end, from the newest checkpoint of the same run where there is one.

        Raises:
            ValueError: the loss is no longer finite, a shard is broken, or a checkpoint cannot be
                written; one sentence.
        """
        self.resume()
        if self.group.world > 1:
            self.replica = DistributedDataParallel(self.model)
        self.model.train()
        self.throughput = Throughput()
        try:
            self._take_steps()
        finally:
            # A replica that outlives its process group ends it under Python's lock, for which the
            # group's own thread may wait at that moment: neither would ever end.
            self.replica = self.model
        if self.group.leads:
            log.info("trained %d steps, %s", self.step, self.throughput)

    def _take_steps(self) -> None:
        devices = [self.group.device] if self.group.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), self._progress() as advance:
            advance(self.step)
            for batches in self._batches():
                lr = float(self.schedule.get_last_lr()[0])
                losses = self._take_step(batches)
                self.curve.add(self.step, losses, lr)
                self._count(batches)
                advance(1)
                if self.group.leads:
                    self._note(losses[0])

    def _progress(self) -> AbstractContextManager[Callable[..., None]]:
        return progress("train", self.total) if self.group.leads else nullcontext(lambda n: None)

    def _batches(self) -> Iterator[list[TrainBatch]]:
        """The micro-batches of each step that is left, prepared ahead by a thread."""
        return prefetched(self._prepared(), PREFETCH)

    def _prepared(self) -> Iterator[list[TrainBatch]]:
        first, start = divmod(self.step, self.loader.steps)
        for epoch in range(first, self.config.epochs):
            for packed in self.loader.epoch(epoch, start if epoch == first else 0):
                yield [self._prepare(piece) for piece in packed.cut(self.config.micro_batch)]

    def _prepare(self, packed: Packed) -> TrainBatch:
        weighting = self.weighting
        return to_train_batch(packed, self.spec, weighting.weigh(packed), weighting.propensity)

    def _take_step(self, batches: list[TrainBatch]) -> list[float]:
        """One optimiser step over this process's micro-batches: the loss, then each task's."""
        torch.manual_seed((self.config.seed * 1_000_003 + self.step) * 1_009 + self.group.rank)
        on_device = [self._taught(batch.to(self.group.device)) for batch in batches]
        weights = self._observed(on_device)
        self.optimizer.zero_grad(set_to_none=True)
        sums = self._add_gradients(on_device, weights)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        losses = self._losses(self.group.sum(sums), weights)
        self._check_finite(losses, norm)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        return losses

    def _add_gradients(self, batches: list[TrainBatch], weights: Tensor) -> Tensor:
        """Adds up the gradients, and what `_sums` gives: float32 `[2, K]`."""
        sums = torch.zeros_like(weights)
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with self._synchronised(last):
                part = self._sums(batch)
                # gradients are averaged over the processes, the loss is a sum over them
                (self._loss(part, weights) * self.group.world).backward()
            sums += part.detach()
        return sums

    def _taught(self, batch: TrainBatch) -> TrainBatch:
        with self.group.autocast:
            return self.teachers.mix(batch)

    def _synchronised(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are summed over the processes once a step, with the last micro-batch."""
        if last or not isinstance(self.replica, DistributedDataParallel):
            return nullcontext()
        return self.replica.no_sync()

    def _observed(self, batches: list[TrainBatch]) -> Tensor:
        """float32 `[2, K]`: observed weight of the targets and of the auxiliary rows, all ranks."""
        parts = [
            torch.stack(
                [
                    observed(batch.labels_RK, batch.weight_R),
                    observed(batch.auxiliary_labels_AK, torch.ones_like(batch.auxiliary_A)),
                ]
            )
            for batch in batches
        ]
        return self.group.sum(torch.stack(parts).sum(0))

    def _sums(self, batch: TrainBatch) -> Tensor:
        """float32 `[2, K]`: the summed losses of the targets and of the auxiliary rows."""
        with self.group.autocast:
            output = self.replica(batch)
        sums = task_sums(output.logits_RK, batch.labels_RK, batch.weight_R)
        if not output.auxiliary_AK.requires_grad:  # a ranker without a sequence output
            return torch.stack([sums, torch.zeros_like(sums)])
        ones_A = torch.ones_like(batch.auxiliary_A, dtype=torch.float32)
        auxiliary = task_sums(output.auxiliary_AK, batch.auxiliary_labels_AK, ones_A)
        return torch.stack([sums, auxiliary])

    def _loss(self, sums: Tensor, weights: Tensor) -> Tensor:
        target = mean_over_tasks(sums[0], weights[0])
        return target + self.config.auxiliary_weight * mean_over_tasks(sums[1], weights[1])

    def _losses(self, sums: Tensor, weights: Tensor) -> list[float]:
        loss = self._loss(sums, weights)
        tasks = sums[0] / weights[0].clamp_min(torch.finfo(torch.float32).tiny)
        return torch.cat([loss[None], tasks]).tolist()  # type: ignore[no-any-return]

    def _check_finite(self, losses: list[float], norm: Tensor) -> None:
        values = [*losses, norm.item()]
        if any(value - value != 0 for value in values):
            raise ValueError(
                f"training stopped at step {self.step} of {self.total}: the loss is {losses[0]}, "
                f"the gradient norm {values[-1]}; lower the learning rate or look for extreme "
                "features"
            )

    def _count(self, batches: list[TrainBatch]) -> None:
        sequences = sum(len(b.impressions.cu_seqlens) - 1 for b in batches)
        impressions = sum(b.impressions.num_impressions for b in batches)
        self.throughput.count(sequences * self.group.world, impressions * self.group.world)

    def _note(self, loss: float) -> None:
        if self.throughput.due():
            log.info("step %d of %d: loss %.4f, %s", self.step, self.total, loss, self.throughput)
        if self.step % self.config.checkpoint_steps == 0 and self.step < self.total:
            save_checkpoint(self.checkpoints, self.checkpoint())

    def checkpoint(self) -> Checkpoint:
        """This moment of the run."""
        return Checkpoint(
            step=self.step,
            inputs=self.inputs,
            model=self.model.state_dict(),
            optimizer=optimizer_tensors(self.optimizer),
            state={
                "rates": self.schedule.get_last_lr(),
                "points": self.curve.points,
                "pending": self.curve.pending,
            },
        )

    def resume(self) -> None:
        """Continues from the newest checkpoint of the same run, if there is one."""
        newest = newest_checkpoint(self.checkpoints, self.inputs)
        self.group.barrier()
        if self.group.leads:  # what is left over must not be pruned in place of what is written now
            clear_checkpoints(self.checkpoints, newest.step if newest else None)
        if newest is None:
            return
        log.info("resuming at step %d of %d", newest.step, self.total)
        self.model.load_state_dict(newest.model)
        load_optimizer_tensors(self.optimizer, newest.optimizer)
        resume_schedule(self.schedule, newest.step, newest.state["rates"])
        self.step = newest.step
        self.curve.points, self.curve.pending = newest.state["points"], newest.state["pending"]
