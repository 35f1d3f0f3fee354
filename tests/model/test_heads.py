# SPDX-License-Identifier: Apache-2.0
"""Every head trains inside the real model; groups of tasks do not touch each other's towers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from model import DCNv2Config, FeedSRConfig, HeadConfig, build_ranker
from model.batch import TrainBatch
from model.config import HEADS, HeadName
from model.heads import TaskHead
from model.ranker import Ranker
from tests.builders import TINY, make_train_batch

HEAD = HeadConfig(width=16, hidden=1, cross=2, rank=4)


def loss_of(ranker: Ranker, batch: TrainBatch) -> torch.Tensor:
    output = ranker(batch)
    losses = []
    for logits, labels in (
        (output.logits_RK, batch.labels_RK),
        (output.auxiliary_AK, batch.auxiliary_labels_AK),
    ):
        known = labels.isfinite()
        losses.append(F.binary_cross_entropy_with_logits(logits[known], labels[known]))
    return losses[0] + losses[1]


def train(ranker: Ranker, batch: TrainBatch, steps: int) -> tuple[float, float]:
    optimizer = torch.optim.AdamW(ranker.parameters(), lr=1e-2)
    torch.manual_seed(0)
    first = float(loss_of(ranker, batch).detach())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(ranker, batch)
        loss.backward()
        optimizer.step()
    return first, float(loss_of(ranker.eval(), batch).detach())


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
@pytest.mark.parametrize("head", HEADS)
def test_feed_sr_learns_with_every_head(head: HeadName, mlp: str) -> None:
    config = FeedSRConfig(
        width=16, layers=2, heads=2, mlp=mlp, head=HEAD.model_copy(update={"name": head})
    )
    ranker = build_ranker(config, TINY)
    first, last = train(ranker, make_train_batch(TINY, 1, [12, 7, 20], "day"), 40)
    assert last < 0.5 * first


@pytest.mark.parametrize("head", ["stacked_dcn", "parallel_dcn"])
def test_dcnv2_learns(head: HeadName) -> None:
    config = DCNv2Config(head=HEAD.model_copy(update={"name": head}))
    batch = make_train_batch(TINY, 1, [12, 7, 20], "day")
    first, last = train(build_ranker(config, TINY), batch, 60)
    auxiliary = float(torch.tensor(2.0).log())
    assert last - auxiliary < 0.5 * (first - auxiliary)


def test_every_parameter_of_feed_sr_gets_a_gradient() -> None:
    ranker = build_ranker(FeedSRConfig(width=16, layers=2, heads=2, head=HEAD), TINY)
    loss_of(ranker, make_train_batch(TINY, 1, [12, 7, 20])).backward()
    without = [n for n, p in ranker.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_a_groups_tower_is_its_own() -> None:
    head = TaskHead(HEAD, 10, TINY.tasks)
    x = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    before = head(x)
    with torch.no_grad():
        for parameter in (*head.bodies[1].parameters(), *head.towers[1].parameters()):
            parameter.add_(1.0)
    after = head(x)
    passive = torch.tensor([t.group == "passive" for t in TINY.tasks])
    assert torch.equal(after[:, passive], before[:, passive])
    assert not torch.isclose(after[:, ~passive], before[:, ~passive]).any()


def test_logits_come_in_the_order_of_the_tasks() -> None:
    tasks = tuple(TINY.tasks[i] for i in (1, 2, 0))
    head = TaskHead(HEAD, 10, tasks)
    logits = head(torch.zeros(1, 10))[0]
    prior = torch.tensor([t.prior for t in tasks])
    assert torch.allclose(logits.sigmoid(), prior, atol=0.02)


def test_gates_drop_out_in_training_only_and_still_sum_to_one() -> None:
    config = HEAD.model_copy(update={"name": "mmoe", "gate_dropout": 0.5})
    head = TaskHead(config, 10, TINY.tasks)
    x = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    assert not torch.equal(head.train()(x), head(x))
    assert torch.equal(head.eval()(x), head(x))
