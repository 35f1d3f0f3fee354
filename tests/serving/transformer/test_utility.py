# SPDX-License-Identifier: Apache-2.0
"""The final score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.specs import SIMULATOR as SPEC
from serving.transformer.utility import MAX_WEIGHT, order_of, scores_of, weights_of


def test_weights_come_from_the_spec_unless_asked() -> None:
    want = [t.utility for t in SPEC.tasks]
    assert weights_of(SPEC, None).tolist() == want
    asked = weights_of(SPEC, {"like": 0.0})
    assert asked[SPEC.task_names.index("like")] == 0
    assert asked[SPEC.task_names.index("share")] == want[SPEC.task_names.index("share")]


def test_an_unknown_task_or_a_weight_that_is_no_number_is_named() -> None:
    with pytest.raises(ValueError, match=r"^weights: task 'applause' is unknown; have click"):
        weights_of(SPEC, {"applause": 1.0})
    with pytest.raises(ValueError, match="like is nan"):
        weights_of(SPEC, {"like": float("nan")})


@pytest.mark.law
@given(st.integers(1, 200), st.integers(0, 999), st.data())
def test_law_1_a_score_is_the_same_bits_whoever_else_is_scored(
    count: int, seed: int, data: st.DataObject
) -> None:
    probabilities = np.random.default_rng(seed).random((count, 6), np.float32)
    weights = weights_of(SPEC, {})
    whole = scores_of(probabilities, weights)
    rows = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=9))
    assert scores_of(probabilities[rows], weights).tolist() == whole[rows].tolist()


def test_equal_scores_keep_their_order() -> None:
    assert order_of(np.array([1.0, 3.0, 1.0, 3.0])).tolist() == [1, 3, 0, 2]
    assert order_of(np.array([2.0, 2.0, 2.0])).tolist() == [0, 1, 2]
    assert order_of(np.array([0.0, -0.0, 1e-300, -1.0])).tolist() == [2, 0, 1, 3]
    many = np.repeat([3.0, 1.0, 2.0], 400)
    assert order_of(many).tolist() == [*range(400), *range(800, 1200), *range(400, 800)]


def test_a_score_is_the_sum_of_each_task_by_its_weight() -> None:
    probabilities = np.array([[0.5, 0.25, 0.125], [1.0, 0.0, 0.75]], np.float32)
    scores = scores_of(probabilities, np.array([2.0, -4.0, 16.0]))
    assert scores.dtype == np.float64
    assert scores.tolist() == [1.0 - 1.0 + 2.0, 2.0 + 12.0]


@pytest.mark.parametrize("value", [MAX_WEIGHT, -MAX_WEIGHT, 0, -0.0, 10**30])
def test_a_weight_of_exactly_the_limit_is_taken(value: float) -> None:
    weights = weights_of(SPEC, {"skip": value})
    assert weights.tolist() == [1.0, float(value), 2.0, 5.0, 10.0, 10.0]
    assert np.isfinite(np.float32(6 * abs(weights).max()))


@pytest.mark.parametrize("value", [np.nextafter(MAX_WEIGHT, 1e31), -1.01e30, 10**31, 1e308])
def test_a_weight_beyond_the_limit_is_named(value: float) -> None:
    with pytest.raises(ValueError, match=r"^weights: skip is .{1,60}, want -1e\+30 to 1e\+30$"):
        weights_of(SPEC, {"like": 1.0, "skip": value})


def test_nothing_to_weigh_or_to_sort() -> None:
    assert weights_of(SPEC, {}).tolist() == weights_of(SPEC, {"like": None}).tolist()
    assert weights_of(SPEC, {}).tolist() == [1.0, -0.5, 2.0, 5.0, 10.0, 10.0]
    assert scores_of(np.zeros((0, 6), np.float32), np.ones(6)).shape == (0,)
    assert scores_of(np.zeros((2, 0), np.float32), np.ones(0)).tolist() == [0.0, 0.0]
    assert order_of(np.zeros(0)).tolist() == []
    with pytest.raises(ValueError, match="argument 2 is"):
        scores_of(np.zeros((2, 6), np.float32), np.ones(5))
