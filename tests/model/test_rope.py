# SPDX-License-Identifier: Apache-2.0
"""Rotations depend on distance alone, and keep their precision under autocast."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from model.rope import Rotation


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
