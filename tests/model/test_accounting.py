# SPDX-License-Identifier: Apache-2.0
"""What parts cost: linear layers, pairs of attention, and layers of one kind beside another."""

from __future__ import annotations

import pytest
from torch import nn

from model import FeedSRConfig
from model.accounting import attention_pairs, hstu_layers_per_block, layer_flops, linear_flops


def test_every_linear_layer_below_is_counted() -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.Sequential(nn.ReLU(), nn.Linear(5, 2, bias=False)))
    assert linear_flops(module, 7) == 2 * 7 * (3 * 5 + 5 * 2)
    assert linear_flops(nn.Linear(3, 5), 7) == 2 * 7 * 15
    assert linear_flops(nn.LayerNorm(3), 7) == linear_flops(module, 0) == 0


@pytest.mark.parametrize("impressions", [0, 1, 4])
def test_pairs_are_those_of_causal_attention(impressions: int) -> None:
    """Each token sees those before it and itself; a candidate sees all and itself."""
    tokens = range(2 * impressions)
    own = [(query, key) for query in tokens for key in tokens if key <= query]
    assert attention_pairs(impressions, 3) == (len(own), 3 * (len(tokens) + 1))


def test_hstu_layers_that_cost_one_block() -> None:
    """12 D^2 multiply-adds a token against 5 D^2, and attention's 2 D a pair for both."""
    wide = FeedSRConfig(width=4096, heads=2)
    assert hstu_layers_per_block(wide, 1) == pytest.approx(12 / 5, rel=1e-3)
    d, tokens = 64, 200
    own = FeedSRConfig(width=d)
    pairs = 2 * d * (tokens + 1) / 2
    assert hstu_layers_per_block(own, tokens // 2) == pytest.approx(
        (12 * d * d + pairs) / (5 * d * d + pairs)
    )
    assert hstu_layers_per_block(own, 10**6) == pytest.approx(1, abs=1e-3)
    hstu = own.model_copy(update={"block": "hstu"})
    assert hstu_layers_per_block(hstu, 100) == hstu_layers_per_block(own, 100)
    gated = own.model_copy(update={"attention": "relu", "attention_gate": True})
    assert hstu_layers_per_block(gated, 1) > hstu_layers_per_block(own, 1)


def test_matched_layers_cost_the_same() -> None:
    """What a study does with the figure: the nearest whole number of layers."""
    config = FeedSRConfig(width=64, layers=5, heads=2)
    layers = config.layers * hstu_layers_per_block(config, 50, 20)
    hstu = config.model_copy(update={"block": "hstu", "layers": round(layers)})
    costs = [c.layers * layer_flops(c, 50, 20) for c in (config, hstu)]
    assert costs[1] == pytest.approx(costs[0], rel=0.5 / layers)
