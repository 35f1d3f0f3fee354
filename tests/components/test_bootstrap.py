# SPDX-License-Identifier: Apache-2.0
"""Members are drawn again as they should be, and the histograms' AUCs are those of the rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.bootstrap import BootstrapAuc, interval, member_weights, standard_error
from kernels.streaming_metrics import exact_auc


def test_weights_are_poisson_and_a_members_own() -> None:
    members = np.arange(4_000)
    weights = member_weights(members, 50)
    assert (weights[:, 0] == 1).all()
    drawn = weights[:, 1:]
    for count, share in enumerate((0.3679, 0.3679, 0.1839, 0.0613)):
        assert abs((drawn == count).mean() - share) < 0.005
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.06
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 0.06
    np.testing.assert_array_equal(member_weights(members[::-1], 50)[::-1], weights)
    assert (member_weights(members, 50, seed=1) != weights).any()


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(2, 200), seed=st.integers(0, 2**16), parts=st.integers(1, 4))
def test_each_resample_is_the_auc_of_rows_repeated(rows: int, seed: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    member = rng.integers(0, 9, rows)
    logits = rng.normal(size=(rows, 2)).astype(np.float32)
    logits[:, 1] = logits[:, 1].round(1) / 1e4
    labels = rng.integers(0, 2, (rows, 2)).astype(np.float32)
    labels[rng.random((rows, 2)) < 0.1] = np.nan
    auc = BootstrapAuc(2, 5)
    for part in np.array_split(rng.permutation(rows), parts):
        auc.update(logits[part], labels[part], member[part])
    often = member_weights(member, 5)
    for b in range(6):
        again = np.repeat(np.arange(rows), often[:, b])
        for k in range(2):
            expected = exact_auc(logits[again, k], labels[again, k])
            np.testing.assert_allclose(auc.auc()[k, b], expected, atol=1e-12)


def test_continuous_scores_lose_little_to_the_buckets() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(50_000) < 0.1).astype(np.float32)
    logits = (rng.normal(-3, 1, 50_000) + labels).astype(np.float32)
    auc = BootstrapAuc(1, 1)
    for part in np.array_split(np.arange(50_000), 7):
        auc.update(logits[part, None] / 1e3, labels[part, None], part)
    often = np.repeat(np.arange(50_000), member_weights(np.arange(50_000), 1)[:, 1])
    found = auc.auc()[0]
    assert abs(found[0] - exact_auc(logits, labels)) < 2e-5
    assert abs(found[1] - exact_auc(logits[often], labels[often])) < 2e-5


def test_the_interval_covers_what_it_should() -> None:
    """Of 200 samples of 80 members the mean's interval covers the truth about 95% of the time."""
    rng = np.random.default_rng(0)
    covered = 0
    for sample in range(200):
        value = rng.normal(0.3, 1, 80)
        weights = member_weights(np.arange(80) + 1000 * sample, 200)
        found = interval((value @ weights) / weights.sum(0))
        covered += found["low"] <= 0.3 <= found["high"]  # type: ignore[operator]
    assert 178 <= covered <= 199


def test_what_is_undefined_has_no_interval() -> None:
    nothing = {"value": None, "low": None, "high": None}
    assert interval(np.array([np.nan, 1.0, 2.0])) == nothing
    assert interval(np.array([1.0, np.nan, np.nan, 2.0])) == nothing
    auc = BootstrapAuc(1, 3)
    auc.update(np.zeros((2, 1)), np.ones((2, 1)), np.arange(2))
    assert np.isnan(auc.auc()).all()
    with pytest.raises(ValueError, match="a score is not finite"):
        auc.update(np.full((1, 1), np.nan), np.ones((1, 1)), np.zeros(1, np.int64))


def test_the_standard_error_is_that_of_many_samples() -> None:
    """Against the truth: the spread of the AUC over fresh samples of members who differ."""
    rng = np.random.default_rng(0)

    def sample() -> tuple[np.ndarray, np.ndarray]:
        taste = np.repeat(rng.normal(size=150), 6)
        score = taste + rng.normal(size=900)
        happened = score + taste + 2 * rng.normal(size=900) > 0
        return score.astype(np.float32)[:, None], happened.astype(np.float32)[:, None]

    def measured(resamples: int) -> BootstrapAuc:
        auc = BootstrapAuc(1, resamples)
        auc.update(*sample(), np.repeat(np.arange(150), 6))
        return auc

    fresh = [measured(0).auc()[0, 0] for _ in range(300)]
    assert standard_error(measured(200).auc()[0]) == pytest.approx(np.std(fresh), rel=0.35)
    assert standard_error(np.array([0.5, np.nan, np.nan])) is None
