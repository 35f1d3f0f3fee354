# SPDX-License-Identifier: Apache-2.0
"""The final score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.specs import SIMULATOR as SPEC
from serving.utility import order_of, scores_of, weights_of


def test_weights_come_from_the_spec_unless_asked() -> None:
    want = [t.utility for t in SPEC.tasks]
    assert weights_of(SPEC, None).tolist() == want
    asked = weights_of(SPEC, {"like": 0.0})
    assert asked[SPEC.task_names.index("like")] == 0
    assert asked[SPEC.task_names.index("share")] == want[SPEC.task_names.index("share")]


def test_an_unknown_task_or_a_weight_that_is_no_number_is_named() -> None:
    with pytest.raises(ValueError, match="'applause' is no task"):
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
