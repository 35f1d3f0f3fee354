# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from components.bootstrap import member_weights, standard_error, weighted_auc


def pairwise_auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """The definition: the share of pairs in the right order, a tie is half of one."""
    hits, misses = labels == 1, labels == 0
    above = scores[hits][:, None] - scores[misses][None, :]
    won = (above > 0) + 0.5 * (above == 0)
    pairs = weights[hits][:, None] * weights[misses][None, :]
    return (won * pairs).sum() / pairs.sum()


rows = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([0.0, 1.0, np.nan]), st.integers(0, 3)),
    min_size=2,
    max_size=40,
)


@given(rows, st.integers(0, 2**31))
def test_the_auc_is_its_definition_under_any_weights(found, seed) -> None:
    score, label, member = (np.array(c, float) for c in zip(*found, strict=True))
    weight = member_weights(member.astype(np.int64), 5, seed)
    got = weighted_auc(score, label, weight)
    for b in range(6):
        with np.errstate(invalid="ignore"):
            expected = pairwise_auc(score, label, weight[b].astype(float))
        assert_allclose(got[b], expected, atol=1e-12)


def test_a_resample_draws_as_many_members_and_keeps_each_one_whole() -> None:
    member = np.repeat(np.array([7, 3, 9, 4]), [1, 5, 2, 3])
    weight = member_weights(member, 50, seed=1)
    assert (weight[0] == 1).all()
    for drawn in weight:
        by_member = {m: set(drawn[member == m]) for m in set(member)}
        assert all(len(counts) == 1 for counts in by_member.values())
        assert sum(counts.pop() for counts in by_member.values()) == 4
    assert len({tuple(drawn) for drawn in weight}) > 10


def test_the_standard_error_is_that_of_many_samples() -> None:
    """Against the truth: the spread of the AUC over fresh samples of members who differ."""
    rng = np.random.default_rng(0)

    def sample() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        member = np.repeat(np.arange(150), 6)
        taste = np.repeat(rng.normal(size=150), 6)
        score = taste + rng.normal(size=900)
        return score, (score + taste + 2 * rng.normal(size=900) > 0).astype(float), member

    fresh = [
        weighted_auc(s, y, np.ones((1, 900), int))[0] for s, y, _ in (sample() for _ in range(300))
    ]
    score, label, member = sample()
    error = standard_error(weighted_auc(score, label, member_weights(member)))
    assert error == pytest.approx(np.std(fresh), rel=0.35)


def test_what_has_one_class_has_no_auc_and_no_error() -> None:
    ones = weighted_auc(np.arange(4.0), np.ones(4), member_weights(np.arange(4), 10))
    assert np.isnan(ones).all()
    assert np.isnan(standard_error(ones))
