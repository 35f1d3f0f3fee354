# SPDX-License-Identifier: Apache-2.0
"""What each rival owes as a ranker: it trains, survives a checkpoint, and says what it costs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from feature_repo.specs import SIMULATOR
from model import RankerConfig, build_ranker
from model.batch import TrainBatch
from model.checkpoint import load_model, save_model
from model.ranker import Ranker
from tests.builders import TINY, make_rank_batch, make_train_batch
from tests.rival_builders import LIRANK, RIVALS, noisy

M, N = 30, 7
of_each = pytest.mark.parametrize("config", RIVALS, ids=lambda config: config.ranker)


def loss_of(ranker: Ranker, batch: TrainBatch) -> torch.Tensor:
    """Both losses; without a sequence output the auxiliary one is log 2, and no gradient."""
    output = ranker(batch)
    pairs = (output.logits_RK, batch.labels_RK), (output.auxiliary_AK, batch.auxiliary_labels_AK)
    losses = []
    for logits, labels in pairs:
        known = labels.isfinite()
        losses.append(F.binary_cross_entropy_with_logits(logits[known], labels[known]))
    return losses[0] + losses[1]


@of_each
def test_it_learns(config: RankerConfig) -> None:
    ranker = build_ranker(config, TINY)
    batch = make_train_batch(TINY, 1, [12, 7, 20], "day")
    optimizer = torch.optim.AdamW(ranker.parameters(), lr=1e-2)
    torch.manual_seed(0)
    first = float(loss_of(ranker, batch).detach())
    for _ in range(100):
        optimizer.zero_grad()
        loss = loss_of(ranker, batch)
        loss.backward()
        optimizer.step()
    last = float(loss_of(ranker.eval(), batch).detach())
    floor = math.log(2) if config is LIRANK else 0.0
    assert last - floor < 0.5 * (first - floor)


@of_each
def test_every_parameter_gets_a_gradient(config: RankerConfig) -> None:
    ranker = noisy(config)
    loss_of(ranker, make_train_batch(TINY, 1, [12, 7, 20], "day")).backward()
    without = [n for n, p in ranker.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert all(bool(p.grad.isfinite().all()) for p in ranker.parameters() if p.grad is not None)


@of_each
@pytest.mark.parametrize("lengths", [[], [0], [0, 0], [1, 0]])
def test_batches_without_history_or_targets(config: RankerConfig, lengths: list[int]) -> None:
    ranker = noisy(config)
    output = ranker(make_train_batch(TINY, 0, lengths, target_share=1.0))
    assert output.logits_RK.shape == (sum(lengths), len(TINY.tasks))
    assert output.logits_RK.isfinite().all()
    counts = [2] * len(lengths)
    logits = ranker.rank(make_rank_batch(TINY, 0, lengths, counts))
    assert logits.shape == (sum(counts), len(TINY.tasks))
    assert logits.isfinite().all()
    (output.logits_RK.sum() + output.auxiliary_AK.sum()).backward()
    # A process that is left without work still sums its gradients with the others.
    assert [n for n, p in ranker.named_parameters() if p.grad is None] == []
    assert all(bool(p.grad.isfinite().all()) for p in ranker.parameters() if p.grad is not None)


@of_each
def test_a_new_model_predicts_the_priors(config: RankerConfig) -> None:
    batch = make_rank_batch(TINY, 2, [5], [50])
    ranker = build_ranker(config, TINY).eval()
    ranker.fit_statistics(batch.context_NC, {**batch.history.features, **batch.history.actions})
    with torch.inference_mode():
        rates = ranker.rank(batch).sigmoid().mean(0)
    prior = torch.tensor([t.prior for t in TINY.tasks])
    assert torch.allclose(rates, prior, rtol=0.3)


@of_each
def test_round_trip(tmp_path: Path, config: RankerConfig) -> None:
    ranker = noisy(config).float()
    save_model(tmp_path / "model", ranker, {"steps": 3})
    loaded, record = load_model(tmp_path / "model", TINY)
    assert type(loaded) is type(ranker)
    assert loaded.config == config
    assert record == {"steps": 3}
    batch = make_rank_batch(TINY, 3, [9, 0], [4, 2])
    with torch.inference_mode():
        assert torch.equal(loaded.rank(batch), ranker.rank(batch))


@of_each
def test_its_operations_are_what_torch_counts_and_the_attention(config: RankerConfig) -> None:
    ranker = build_ranker(config, SIMULATOR).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        ranker.rank(make_rank_batch(SIMULATOR, 0, [M], [N]))
    counts = counter.get_flop_counts()["Global"]
    linear = sum(counts.get(op, 0) for op in (torch.ops.aten.mm, torch.ops.aten.addmm))
    history = M * (M + 1) // 2
    attention = {
        "lirank": 4 * N * 3 * 6 * 2 * 2,
        "transact": 4 * 8 * N * 5**2 * 2,
        "appended": 4 * 8 * (2 * history + 3 * N * (M + 1)),
        "ligr": 4 * 8 * (history + 2 * N * (M + 1) + 2 * N**2),
    }
    assert ranker.flops(M, N) == linear + attention[config.ranker]


@of_each
def test_it_computes_in_bfloat16_under_autocast(config: RankerConfig) -> None:
    ranker = noisy(config).float()
    batch = make_train_batch(TINY, 3, [20, 5], "day")
    exact = ranker(batch).logits_RK
    with torch.autocast("cpu", torch.bfloat16):
        output = ranker(batch)
    assert (output.logits_RK - exact).abs().max() < 0.1 * exact.abs().max()
    output.logits_RK.float().sum().backward()
    request = make_rank_batch(TINY, 3, [9, 0], [4, 2])
    with torch.no_grad():
        exact = ranker.rank(request)
        with torch.autocast("cpu", torch.bfloat16):
            assert (ranker.rank(request) - exact).abs().max() < 0.1 * exact.abs().max()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in ranker.parameters())
