# SPDX-License-Identifier: Apache-2.0
"""Which parameters decay, AdamW against its formula, and the rates of a run of any length."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from components.config import TrainConfig
from components.training.optimizer import (
    make_optimizer,
    make_schedule,
    parameter_groups,
    resume_schedule,
)
from feature_repo.specs import KUAIRAND
from model import FeedSRConfig, build_ranker

PEAK = 0.01
CONFIG = TrainConfig(learning_rate=PEAK, weight_decay=0.1)


class Small(nn.Module):
    """One of each kind of parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 2)
        self.layer = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)
        self.offsets = nn.Parameter(torch.ones(2, 3))
        self.scale = nn.Parameter(torch.ones(1))
        self.raw = nn.Parameter(torch.ones(2, 2, 2))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def test_only_the_matrices_of_layers_decay() -> None:
    model = Small()
    names = {id(p): n for n, p in model.named_parameters()}
    decaying, still = parameter_groups(model, 0.1)
    assert [names[id(p)] for p in decaying["params"]] == ["raw", "layer.weight"]
    assert sorted(names[id(p)] for p in still["params"]) == [
        *("layer.bias", "norm.bias", "norm.weight", "offsets", "scale", "table.weight"),
    ]
    assert (decaying["weight_decay"], still["weight_decay"]) == (0.1, 0.0)


def test_every_parameter_of_the_ranker_is_in_one_group() -> None:
    model = build_ranker(FeedSRConfig(), KUAIRAND)
    names = {id(p): n for n, p in model.named_parameters()}
    decays, still = ({names[id(p)] for p in g["params"]} for g in parameter_groups(model, 0.1))
    assert decays | still == set(names.values())
    assert not decays & still
    modules = dict(model.named_modules())
    for name in decays:
        owner = modules[name.rpartition(".")[0]]
        assert not isinstance(owner, nn.Embedding | nn.LayerNorm)
        assert not name.endswith("bias")
    assert any("offsets" in name for name in still)
    assert sum(model.get_parameter(n).numel() for n in decays) > 10_000


def test_a_step_is_adamws_with_decay_where_it_belongs() -> None:
    model = Small()
    optimizer = make_optimizer(model, CONFIG)
    assert optimizer.defaults["fused"]
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, -0.3)
    optimizer.step()
    for name, parameter in model.named_parameters():
        kept = 1 - PEAK * 0.1 if name in ("raw", "layer.weight") else 1
        moved = 0 if name == "frozen" else PEAK  # the first step is the rate, against the gradient
        torch.testing.assert_close(parameter.detach(), kept * before[name] + moved, msg=name)


def rates(steps: int) -> list[float]:
    """The rate that each step is taken with."""
    optimizer = make_optimizer(Small(), CONFIG)
    schedule = make_schedule(optimizer, CONFIG, steps)
    taken = []
    for _ in range(steps):
        taken.append(optimizer.param_groups[0]["lr"])
        assert optimizer.param_groups[1]["lr"] == taken[-1]
        optimizer.step()
        schedule.step()
    return taken


@pytest.mark.parametrize(
    ("steps", "shares"),
    [
        (1, [1]),
        (2, [0.04, 1]),
        (3, [0.04, 1, 0.5]),
        (4, [0.04, 1, 0.75, 0.25]),
        (5, [0.04, 1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4]),
    ],
)
def test_a_short_run_warms_up_for_a_step_where_it_has_two_and_reaches_the_peak(
    steps: int, shares: list[float]
) -> None:
    assert rates(steps) == pytest.approx([PEAK * share for share in shares], rel=1e-4)


@pytest.mark.parametrize("steps", [6, 7, 10, 40, 333])
def test_a_run_of_a_usual_length_has_the_rates_of_one_cycle_to_the_bit(steps: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=PEAK)
    cycle = OneCycleLR(optimizer, max_lr=PEAK, total_steps=steps + 1, cycle_momentum=False)
    expected = []
    for _ in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cycle.step()
    assert rates(steps) == expected


def test_the_rates_of_ten_steps_are_pinned() -> None:
    """A run that is resumed with the next release goes on as it began."""
    up = [0.04 + 0.96 * (1 - math.cos(math.pi * step / 2.3)) / 2 for step in range(3)]
    down = [(1 + math.cos(math.pi * (step - 2.3) / 7.7)) / 2 for step in range(3, 10)]
    assert rates(10) == pytest.approx([PEAK * share for share in up + down], rel=1e-3)


@pytest.mark.parametrize("steps", range(1, 60))
def test_every_run_reaches_its_peak_and_its_last_step_learns(steps: int) -> None:
    taken = rates(steps)
    assert max(taken) >= 0.97 * PEAK
    assert max(taken) <= PEAK * (1 + 1e-12)
    assert min(taken) > 1e-3 * PEAK
    if steps > 1:
        assert taken[0] == pytest.approx(PEAK / 25)
    top = taken.index(max(taken))
    assert taken[: top + 1] == sorted(taken[: top + 1])
    assert taken[top:] == sorted(taken[top:], reverse=True)


def test_momentum_stays() -> None:
    optimizer = make_optimizer(Small(), CONFIG)
    schedule = make_schedule(optimizer, CONFIG, 5)
    for _ in range(5):
        assert all(g["betas"] == (0.9, 0.999) for g in optimizer.param_groups)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_a_schedule_put_back_goes_on_as_it_was(steps: int) -> None:
    expected = rates(steps)
    for taken in range(steps):
        optimizer = make_optimizer(Small(), CONFIG)
        schedule = make_schedule(optimizer, CONFIG, steps)
        resume_schedule(schedule, taken, [expected[taken], expected[taken]])
        for rate in expected[taken:]:
            assert [g["lr"] for g in optimizer.param_groups] == [rate, rate]
            assert schedule.get_last_lr() == [rate, rate]
            optimizer.step()
            schedule.step()
