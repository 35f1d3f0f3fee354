# SPDX-License-Identifier: Apache-2.0
"""LiRank's parts: attention inside the cross layer, gates, and calibration that is in the model."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from model import build_ranker
from model.rivals.config import LiRankConfig
from model.rivals.lirank import GatedLayer, LiRank, ResidualCrossLayer
from tests.builders import TINY, make_rank_batch
from tests.rival_builders import LIRANK, noisy

GENERATOR = torch.Generator().manual_seed(0)
X0, X = torch.randn(2, 4, 10, generator=GENERATOR)


def written_out(layer: ResidualCrossLayer, config: LiRankConfig) -> torch.Tensor:
    """The layer of section 3.3, one row and one field at a time."""
    dim = config.rank // config.fields
    rows = []
    for x0, x in zip(X0, X, strict=True):
        query, key, value = layer.down(x).split(config.rank)
        mixed = value.clone()
        for f in range(config.fields):
            scores = torch.stack(
                [query[f * dim :][:dim] @ key[g * dim :][:dim] for g in range(config.fields)]
            )
            weights = (scores / (config.temperature * dim**0.5)).softmax(0)
            for g in range(config.fields):
                mixed[f * dim : (f + 1) * dim] += weights[g] * value[g * dim :][:dim]
        rows.append(x0 * layer.up(mixed) + x)
    return torch.stack(rows)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("fields", [1, 3, 6])
def test_the_cross_layer_is_the_papers(fields: int, temperature: float) -> None:
    config = LIRANK.model_copy(update={"fields": fields, "temperature": temperature})
    layer = ResidualCrossLayer(10, config)
    torch.testing.assert_close(layer(X0, X), written_out(layer, config))


def test_a_closed_gate_lets_nothing_through_and_an_open_one_everything() -> None:
    layer = GatedLayer(10, 5, dropout=0.0)
    with torch.no_grad():
        layer.gate.weight.zero_()
        layer.gate.bias.copy_(torch.tensor([-99.0, 99.0, 0.0, 0.0, 0.0]))
    gated, plain = layer(X), layer.linear(X).relu()
    assert not gated[:, 0].any()
    assert torch.equal(gated[:, 1], plain[:, 1])
    torch.testing.assert_close(gated[:, 2], plain[:, 2] / 2)


def test_calibration_is_in_the_model_and_keeps_each_tasks_order() -> None:
    ranker = noisy(LIRANK)
    assert isinstance(ranker, LiRank)
    batch = make_rank_batch(TINY, 3, [4], [40])
    calibrated = ranker.rank(batch)
    with torch.no_grad():
        for weight in ranker.calibration.parameters():
            weight.zero_()
    plain = ranker.rank(batch)
    assert not torch.isclose(calibrated, plain).all()
    assert torch.equal(calibrated.argsort(0), plain.argsort(0))


def test_it_sees_no_history() -> None:
    ranker = build_ranker(LIRANK, TINY).eval()
    batch = make_rank_batch(TINY, 1, [6], [3])
    other = dataclasses.replace(batch, history=make_rank_batch(TINY, 2, [9], [3]).history)
    assert torch.equal(ranker.rank(batch), ranker.rank(other))
