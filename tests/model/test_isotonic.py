# SPDX-License-Identifier: Apache-2.0
"""Calibration never falls, is the identity when new, and mends what is calibrated badly."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from model.isotonic import IsotonicCalibration

logits_of = st.lists(st.floats(-40, 40), min_size=2, max_size=30)


def make_layer(seed: int, tasks: int, buckets: int) -> IsotonicCalibration:
    layer = IsotonicCalibration(tasks, buckets, -3.0, 5.0).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(2 * torch.randn(weight.shape, generator=generator))
    return layer


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 12), logits_of)
def test_it_never_falls(seed: int, buckets: int, logits: list[float]) -> None:
    x = torch.tensor(sorted(logits), dtype=torch.float64)[:, None].expand(-1, 2)
    y = make_layer(seed, 2, buckets)(x)
    slack = 1e-12 * y.abs().max().clamp_min(1)
    assert bool((y.diff(dim=0) >= -slack).all())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), logits_of)
def test_new_it_is_the_identity(buckets: int, logits: list[float]) -> None:
    x = torch.tensor(logits)[:, None]
    assert torch.equal(IsotonicCalibration(1, buckets)(x), x)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 12), logits_of)
def test_it_is_the_sum_of_the_buckets_below(seed: int, buckets: int, logits: list[float]) -> None:
    """The paper's formula, written out: weight times the share of each bucket that lies below."""
    layer = make_layer(seed, 1, buckets)
    slopes = layer.log_slope_KB[0].exp().tolist()
    got = layer(torch.tensor(logits, dtype=torch.float64)[:, None])[:, 0].tolist()
    step = 8.0 / buckets
    for x, y in zip(logits, got, strict=True):
        want = -3.0 + float(layer.shift_K.detach())
        for b, slope in enumerate(slopes):
            start = -3.0 + b * step
            low = -math.inf if b == 0 else 0.0
            high = math.inf if b == buckets - 1 else step
            want += slope * min(max(x - start, low), high)
        assert y == pytest.approx(want, rel=1e-9, abs=1e-9)


def test_each_task_has_its_own() -> None:
    layer = make_layer(3, 3, 6)
    x = torch.linspace(-6, 8, 30, dtype=torch.float64)[:, None].expand(-1, 3)
    before = layer(x)
    with torch.no_grad():
        layer.log_slope_KB[1] += 1
    after = layer(x)
    assert torch.equal(after[:, [0, 2]], before[:, [0, 2]])
    assert not torch.isclose(after[:, 1], before[:, 1]).all()


def test_it_learns_to_undo_a_bend() -> None:
    """Labels follow half the logit, and a rate three times too high below zero is mended."""
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(4000, 1, generator=generator)
    labels = (torch.rand(x.shape, generator=generator) < (0.5 * x - 1).sigmoid()).float()
    layer = IsotonicCalibration(1, 16)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(layer(x), labels).backward()
        optimizer.step()
    grid = torch.linspace(-4, 4, 9)[:, None]
    got, want = layer(grid).sigmoid(), (0.5 * grid - 1).sigmoid()
    assert (got - want).abs().max() < 0.06


def test_a_logit_that_is_no_number_stays_none_and_spoils_no_other() -> None:
    x = torch.tensor([[math.nan, 1.0], [0.5, -99.0]])
    y = IsotonicCalibration(2, 4)(x)
    assert y.isnan().tolist() == [[True, False], [False, False]]
    assert torch.equal(y[1], x[1])


@pytest.mark.parametrize(("buckets", "high"), [(0, 8.0), (4, -8.0)])
def test_what_is_no_layer_is_refused(buckets: int, high: float) -> None:
    with pytest.raises(ValueError, match=f"with {buckets} buckets"):
        IsotonicCalibration(2, buckets, high=high)
