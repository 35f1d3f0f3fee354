# SPDX-License-Identifier: Apache-2.0
"""Members are drawn again as they should be, and the resamples' AUCs are those of rows repeated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.backtest.bootstrap import BootstrapAuc, interval, member_weights, standard_error
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


def test_a_members_weights_are_those_of_every_release() -> None:
    """Differences that are published are told apart from those that are made anew."""
    assert member_weights(np.array([0, 1, 7, 2**60]), 8).tolist() == [
        [1, 0, 0, 1, 0, 1, 1, 0, 2],
        [1, 0, 0, 0, 0, 1, 0, 1, 1],
        [1, 0, 0, 1, 0, 0, 2, 2, 1],
        [1, 2, 1, 0, 1, 3, 1, 0, 4],
    ]
    assert member_weights(np.array([7]), 8, seed=3).tolist() == [[1, 2, 1, 1, 1, 1, 0, 0, 0]]


ROWS = 40_000


@pytest.mark.parametrize("place", [0, 17_000, ROWS - 1], ids=["first", "middle", "last"])
def test_one_positive_counts_wherever_it_is(place: int) -> None:
    logits = np.random.default_rng(0).permutation(ROWS).astype(np.float32)[:, None]
    labels = np.zeros((ROWS, 1), np.float32)
    labels[place] = 1
    auc = BootstrapAuc(1, 0)
    auc.update(logits, labels, np.arange(ROWS))
    assert auc.auc() == [[pytest.approx(logits[place, 0] / (ROWS - 1), abs=1e-12)]]


def test_the_same_score_for_everything_is_a_half_to_the_bit() -> None:
    """One tie over three blocks."""
    labels = (np.arange(ROWS) % 3 == 0).astype(np.float32)[:, None]
    auc = BootstrapAuc(1, 3)
    auc.update(np.full((ROWS, 1), -5, np.float32), labels, np.arange(ROWS) // 7)
    assert auc.auc().tolist() == [[0.5] * 4]


def test_a_tie_of_more_rows_than_a_byte_counts_is_summed_whole() -> None:
    """200 positives tie with 300 negatives, 100 negatives are above: .5 of three in four."""
    labels = np.repeat(np.float32([1, 0, 0]), [200, 300, 100])[:, None]
    logits = np.repeat(np.float32([2, 2, 3]), [200, 300, 100])[:, None]
    auc = BootstrapAuc(1, 0)
    auc.update(logits, labels, np.arange(600))
    assert auc.auc() == [[0.375]]


def test_nothing_has_no_auc_and_no_interval() -> None:
    never, empty = BootstrapAuc(2, 3), BootstrapAuc(2, 3)
    empty.update(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, np.int64))
    for auc in (never, empty):
        assert auc.auc().shape == (2, 4)
        assert np.isnan(auc.auc()).all()
    assert member_weights(np.zeros(0, np.int64), 3).shape == (0, 4)
    unknown = BootstrapAuc(1, 3)
    unknown.update(np.zeros((5, 1)), np.full((5, 1), np.nan), np.arange(5))
    assert np.isnan(unknown.auc()).all()
    assert interval(unknown.auc()[0])["value"] is None
    assert standard_error(unknown.auc()[0]) is None


def test_the_interval_covers_what_it_should() -> None:
    """Of 200 samples of 80 members the mean's interval covers the truth about 95% of the time."""
    rng = np.random.default_rng(0)
    covered = 0
    for sample in range(200):
        value = rng.normal(0.3, 1, 80)
        weights = member_weights(np.arange(80) + 1000 * sample, 200)
        bounds = interval((value @ weights) / weights.sum(0))
        covered += bounds["low"] <= 0.3 <= bounds["high"]  # type: ignore[operator]
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
    assert standard_error(np.array([0.5])) is None
    assert standard_error(np.array([0.5, 0.6])) is None
    assert standard_error(np.array([0.5, 0.6, 0.8])) == pytest.approx(0.1 * 2**0.5)
    assert standard_error(np.array([0.5, 0.6, 0.8, np.nan])) == pytest.approx(0.1 * 2**0.5)
    assert standard_error(np.array([0.5, 0.6, 0.8, np.nan, np.nan])) is None


def test_the_interval_is_that_of_the_resamples_alone() -> None:
    values = np.concatenate([[7.0], np.arange(41.0)])
    assert interval(values) == {"value": 7, "low": 1, "high": 39}
    half = np.concatenate([[7.0], np.arange(41.0), np.full(40, np.nan)])
    assert interval(half) == {"value": 7, "low": 1, "high": 39}
    assert interval(np.append(half, np.nan)) == {"value": None, "low": None, "high": None}


def sorted_rows(by: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows in an order that says something of their scores."""
    rng = np.random.default_rng(0)
    member = rng.integers(0, 300, ROWS)
    labels = (rng.random(ROWS) < 0.1 + 0.3 * (member % 3 == 0)).astype(np.float32)
    logits = rng.normal(-3 + labels, 1 + member / 300).astype(np.float32)
    order = {
        "score": np.argsort(logits),
        "score, falling": np.argsort(-logits),
        "label": np.argsort(labels),
        "label, falling": np.argsort(-labels),
        "member": np.argsort(member),
    }[by]
    return logits[order, None], labels[order, None], member[order]


@pytest.mark.parametrize("parts", [1, 7])
@pytest.mark.parametrize("by", ["score", "score, falling", "label", "label, falling", "member"])
def test_the_order_of_the_rows_says_nothing(by: str, parts: int) -> None:
    logits, labels, member = sorted_rows(by)
    auc = BootstrapAuc(1, 30)
    for part in np.array_split(np.arange(ROWS), parts):
        auc.update(logits[part] / 1e3, labels[part], member[part])
    (aucs,) = auc.auc()
    exact = exact_auc(logits[:, 0] / np.float32(1e3), labels[:, 0])
    assert aucs[0] == pytest.approx(exact, abs=1e-12)
    often = member_weights(member, 30)
    for b in (1, 30):
        again = np.repeat(np.arange(ROWS), often[:, b])
        assert aucs[b] == pytest.approx(exact_auc(logits[again, 0], labels[again, 0]), abs=1e-9)
    said = interval(aucs)
    assert said["low"] < exact < said["high"]


@pytest.fixture(params=[1, 2, 7, 16_384], ids=lambda rows: f"blocks of {rows}")
def block(request, monkeypatch) -> int:
    """Rows whose weights are handled at once; a tie may lie across blocks."""
    monkeypatch.setattr("components.backtest.bootstrap.BLOCK_ROWS", request.param)
    return request.param


@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.integers(0, 60), seed=st.integers(0, 2**16), parts=st.integers(1, 4))
def test_each_resample_is_the_auc_of_rows_repeated(
    rows: int, seed: int, parts: int, block: int
) -> None:
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
