# SPDX-License-Identifier: Apache-2.0
"""Rotations depend on distance alone, and keep their precision under autocast."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.layers.rope import Rotation


def rotate(x: torch.Tensor, position: int) -> torch.Tensor:
    return Rotation.at(torch.tensor([position]), 8, 10_000.0, torch.float64)(x[None, None])[0, 0]


@given(st.integers(0, 2200), st.integers(0, 2200), st.integers(0, 4000))
def test_scores_depend_on_distance_alone(i: int, j: int, shift: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    score = rotate(q, i) @ rotate(k, j)
    shifted = rotate(q, i + shift) @ rotate(k, j + shift)
    assert torch.isclose(score, shifted, atol=1e-9)


def test_position_zero_and_length_are_kept() -> None:
    x = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(rotate(x, 0), x)
    assert torch.isclose(rotate(x, 1999).norm(), x.norm())
    assert not torch.allclose(rotate(x, 1999), rotate(x, 2000), atol=0.1)


def test_low_precision_heads_are_rotated_in_float32() -> None:
    rotation = Rotation.at(torch.tensor([1999, 2000]), 8, 10_000.0, torch.float32)
    x = torch.ones(2, 1, 8, dtype=torch.bfloat16)
    got = rotation(x)
    assert got.dtype == torch.bfloat16
    want = Rotation.at(torch.tensor([1999, 2000]), 8, 10_000.0, torch.float64)(x.double())
    assert (got.double() - want).abs().max() < 0.01


def by_hand(x: list[float], angles: list[float]) -> list[float]:
    """Channel i of the first half turns with channel i of the second."""
    half = len(x) // 2
    pairs = list(zip(x[:half], x[half:], angles, strict=True))
    first = [a * math.cos(t) - b * math.sin(t) for a, b, t in pairs]
    return first + [b * math.cos(t) + a * math.sin(t) for a, b, t in pairs]


@pytest.mark.parametrize("gradients", [True, False])
def test_a_turn_by_position_is_its_formula(gradients: bool) -> None:
    """Base 100 on six channels: by 1, 100^(-1/3) and 100^(-2/3) radians a position."""
    x = [1.0, -2.0, 0.5, 3.0, 0.25, -1.5]
    rotation = Rotation.at(torch.tensor([0, 1999]), 6, 100.0, torch.float64)
    heads = torch.tensor(x, dtype=torch.float64).expand(2, 3, 6).clone()
    with torch.set_grad_enabled(gradients):
        got = rotation(heads)
    assert got.dtype == torch.float64
    turned = by_hand(x, [1999 * 100 ** (-2 * i / 6) for i in range(3)])
    want = torch.tensor([x, turned], dtype=torch.float64)[:, None].expand(2, 3, 6)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-11)
    assert torch.equal(heads, torch.tensor(x, dtype=torch.float64).expand(2, 3, 6))


@pytest.mark.parametrize("gradients", [True, False])
def test_a_turn_by_time_is_its_formula(gradients: bool) -> None:
    """Three periods: a second, their geometric mean to the millisecond, and 365 days."""
    periods = [1_000, round(math.sqrt(1_000 * 31_536_000_000)), 31_536_000_000]
    x, time = [1.0, -2.0, 0.5, 3.0, 0.25, -1.5], 1_700_000_123_457
    rotation = Rotation.at_times(torch.tensor([time]), 6, torch.float64)
    with torch.set_grad_enabled(gradients):
        got = rotation(torch.tensor(x, dtype=torch.float64)[None, None])[0, 0]
    want = by_hand(x, [2 * math.pi * (time % p) / p for p in periods])
    torch.testing.assert_close(got, torch.tensor(want).double(), rtol=0, atol=1e-6)
    assert got.tolist() == pytest.approx(want, abs=1e-11)


def test_a_rotation_keeps_the_dtype_of_the_heads_and_its_own() -> None:
    for dtype in (torch.float32, torch.float64):
        rotation = Rotation.at(torch.tensor([3]), 4, 100.0, dtype)
        assert rotation.cos.dtype == rotation.sin.dtype == dtype
        assert rotation.cos.shape == (1, 1, 2)
        for heads in (torch.bfloat16, torch.float32, torch.float64):
            with torch.no_grad():
                assert rotation(torch.ones(1, 1, 4, dtype=heads)).dtype == heads


def test_a_rotation_is_made_where_its_tokens_are() -> None:
    """On a device that has no numbers, so that every machine can try."""
    tokens = torch.arange(5, device="meta")
    for rotation in (
        Rotation.at(tokens, 4, 100.0, torch.float32),
        Rotation.at_times(tokens, 4, torch.float32),
    ):
        with torch.no_grad():
            assert rotation(torch.zeros(5, 2, 4, device="meta")).device.type == "meta"
        assert rotation.cos.device.type == rotation.sin.device.type == "meta"
