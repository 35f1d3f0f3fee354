# SPDX-License-Identifier: Apache-2.0
"""Each residual is its formula, with and without gradients, and starts where its paper says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model import FeedSRConfig
from model.config import ResidualName
from model.layers.residual import GatedAdd, LayerScale, RescaleAndAdd, make_residual

RESIDUALS: tuple[ResidualName, ...] = ("rescale", "plain", "rezero", "layer_scale", "gated")


def make_streams() -> tuple[Tensor, Tensor]:
    x, branch = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).double()
    return x, branch


def make(name: ResidualName) -> torch.nn.Module:
    torch.manual_seed(0)
    return make_residual(FeedSRConfig(width=4, residual=name, residual_scale=0.5)).double()


def test_formulas() -> None:
    x, branch = make_streams()
    torch.testing.assert_close(make("plain")(x, branch), x + branch)
    torch.testing.assert_close(make("rescale")(x, branch), x + 0.5 * branch)
    assert torch.equal(make("rezero")(x, branch), x)
    torch.testing.assert_close(
        make("layer_scale")(x, branch), x + 0.1 * branch, rtol=1e-7, atol=1e-7
    )
    gated = make("gated")
    assert isinstance(gated, GatedAdd)
    share = 1 / (1 + torch.exp(-(x @ gated.gate.weight.T + gated.gate.bias)))
    torch.testing.assert_close(gated(x, branch), x + share * branch)


def test_a_scale_is_for_all_channels_or_for_each() -> None:
    assert RescaleAndAdd(0.5)(torch.tensor(1.0), torch.tensor(4.0)) == 3.0
    add = LayerScale(4)
    with torch.no_grad():
        add.scale_D.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    assert add(torch.zeros(1, 4), torch.ones(1, 4)).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("name", RESIDUALS)
def test_without_gradients_the_stream_is_updated_in_place_to_the_same_values(
    name: ResidualName,
) -> None:
    x, branch = make_streams()
    before, add = x.clone(), make(name)
    want = add(x, branch)
    assert torch.equal(x, before)
    with torch.no_grad():
        got = add(x, branch)
    torch.testing.assert_close(got, want)
    assert got.data_ptr() == x.data_ptr()


def test_the_gate_decides_what_a_branch_adds() -> None:
    add, x, branch = GatedAdd(3), torch.randn(4, 3), torch.ones(4, 3)
    with torch.no_grad():
        add.gate.weight.zero_()
        add.gate.bias.copy_(torch.tensor([-99.0, 0.0, 99.0]))
    torch.testing.assert_close(add(x, branch) - x, torch.tensor([0.0, 0.5, 1.0]).expand(4, 3))
