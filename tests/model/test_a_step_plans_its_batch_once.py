# SPDX-License-Identifier: Apache-2.0
"""A training step as the trainer takes it: nobody but autograd keeps the plan of the batch.

So its gradients are held against differences of the loss itself, and its plans are counted.
"""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor

from kernels.shared_context_attention import SeqlenInfo
from model import RankerConfig, build_ranker
from model.batch import TrainBatch
from model.ranker import Ranker
from tests.builders import TINY
from tests.model.variants import SMALL, timed_train_batch, variant
from tests.rival_builders import APPENDED, LIGR, noisy

CONFIGS: dict[str, RankerConfig] = {
    "feed_sr": SMALL,
    "silu": variant("silu"),
    "hstu": variant("hstu"),
    "appended": APPENDED,
    "ligr": LIGR,
}
STEP = 1e-6


def loss_of(ranker: Ranker, batch: TrainBatch) -> Tensor:
    """Logits and auxiliary logits, each weighted otherwise."""
    output = ranker(batch)
    parts = (output.logits_RK, output.auxiliary_AK)
    return sum(
        ((x * torch.arange(1, x.numel() + 1).view_as(x).cos()).sum() for x in parts),
        torch.zeros((), dtype=torch.float64),
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_makes_the_plan_of_its_batch_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    check = SeqlenInfo.__post_init__

    def counted(info: SeqlenInfo) -> None:
        made.append(info.num_tokens)
        check(info)

    ranker, batch = build_ranker(CONFIGS[name], TINY), timed_train_batch(1, [12, 7, 20], "day")
    monkeypatch.setattr(SeqlenInfo, "__post_init__", counted)
    loss_of(ranker, batch).backward()
    assert len(made) == 1
    gc.collect()
    loss_of(ranker, batch).backward()
    assert len(made) == 2


@pytest.mark.parametrize("pattern", ["causal", "day"])
@pytest.mark.parametrize("name", ["feed_sr", "appended"])
def test_gradients_are_differences_of_the_loss(name: str, pattern: str) -> None:
    ranker = noisy(CONFIGS[name])
    batch = timed_train_batch(3, [9, 1, 14], pattern)  # type: ignore[arg-type]
    weights = [p for p in ranker.parameters() if p.is_floating_point()]
    grads = torch.autograd.grad(loss_of(ranker, batch), weights, allow_unused=True)
    generator = torch.Generator().manual_seed(4)
    ways = [torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in weights]
    slope = sum(float((g * d).sum()) for g, d in zip(grads, ways, strict=True) if g is not None)

    def moved(step: float) -> float:
        with torch.no_grad():
            for weight, way in zip(weights, ways, strict=True):
                weight += step * way
            return float(loss_of(ranker, batch))

    above, below = moved(STEP), moved(-2 * STEP)
    assert (above - below) / (2 * STEP) == pytest.approx(slope, rel=1e-5)
