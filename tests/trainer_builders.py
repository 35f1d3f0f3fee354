# SPDX-License-Identifier: Apache-2.0
"""A trainer of small rankers, and its step by hand: loss and gradients of a whole batch at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.config import TrainConfig
from components.training.data import Weighting, open_loader
from components.training.distributed import Group
from components.training.trainer import Trainer
from feature_repo.specs import KUAIRAND
from kernels.loader import LoaderConfig
from model import DCNv2Config, FeedSRConfig, HeadConfig, RankerConfig, build_ranker
from model.batch import TrainBatch
from tests.builders import make_train_batch

HEAD = HeadConfig(name="linear", gate_dropout=0)
STILL = FeedSRConfig(width=16, layers=1, heads=2, embedding_dropout=0, head=HEAD)
NOISY = STILL.model_copy(update={"embedding_dropout": 0.3})
BASELINE = DCNv2Config(embedding_dropout=0, head=HEAD)
PLAIN = TrainConfig(global_batch=8, micro_batch=8, learning_rate=3e-3, gradient_clip=1e9)
WEIGHTING = Weighting(as_of_ms=0, age_half_life_days=60.0, position_half_life=None)


def make_trainer(
    shards: Path,
    checkpoints: Path,
    config: TrainConfig = PLAIN,
    ranker: RankerConfig = STILL,
    rank: int = 0,
    **more: Any,
) -> Trainer:
    """A trainer of a new ranker on some shards."""
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
    """A batch of sequences of these lengths."""
    return make_train_batch(KUAIRAND, seed, lengths)


def means(logits_RK: Tensor, labels_RK: Tensor, weight_R: Tensor) -> list[Tensor]:
    """Each task's weighted mean cross-entropy over what was observed; zero where nothing was."""
    losses = []
    for k in range(labels_RK.shape[1]):
        seen = ~labels_RK[:, k].isnan()
        z, y, w = logits_RK[seen, k].double(), labels_RK[seen, k].double(), weight_R[seen].double()
        loss = -(y * torch.sigmoid(z).log() + (1 - y) * torch.sigmoid(-z).log())
        losses.append((w * loss).sum() / w.sum() if seen.any() else z.sum())
    return losses


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
    """Those that the last step left."""
    named = trainer.model.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """The same gradients, but for the order of sums."""
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-6, msg=name)
