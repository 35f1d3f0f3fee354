# SPDX-License-Identifier: Apache-2.0
"""Streaming metrics against exact ones, their merging, and their edges."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.streaming_metrics import (
    StreamingMetrics,
    exact_auc,
    exact_calibration,
    exact_ece,
    exact_log_loss,
    histogram,
)

NAN = float("nan")


def scored(rows: int, rates=(0.3, 0.02), seed: int = 0):  # type: ignore[no-untyped-def]
    """Continuous logits that are calibrated by construction: labels are drawn from them."""
    rng = np.random.default_rng(seed)
    prior = np.log(np.array(rates) / (1 - np.array(rates)))
    logits = prior + rng.normal(size=(rows, len(rates)))
    labels = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    labels[rng.random(logits.shape) < 0.1] = NAN
    return logits.astype(np.float32), labels


def fed(logits, labels, **options) -> StreamingMetrics:  # type: ignore[no-untyped-def]
    metrics = StreamingMetrics(np.shape(logits)[1], **options)
    metrics.update(logits, labels)
    return metrics


def slow_auc(logits, labels) -> float:  # type: ignore[no-untyped-def]
    pairs = [
        (p > n) + 0.5 * (p == n)
        for p, y in zip(logits, labels, strict=True)
        for n, z in zip(logits, labels, strict=True)
        if y == 1 and z == 0
    ]
    return float(np.mean(pairs)) if pairs else NAN


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_hundred_thousand_continuous_scores_within_1e_5(dtype: type) -> None:
    rates = (0.44, 0.3, 0.1)
    logits, labels = scored(100_000, rates)
    metrics = fed(logits.astype(dtype), labels)
    exact = [exact_auc(logits[:, k], labels[:, k]) for k in range(3)]
    np.testing.assert_allclose(metrics.auc(), exact, rtol=0, atol=1e-5)
    exact = [exact_log_loss(logits[:, k], labels[:, k]) for k in range(3)]
    np.testing.assert_allclose(metrics.log_loss(), exact, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(-3, 3), st.sampled_from([0.0, 1.0, NAN])), min_size=1, max_size=30
    )
)
def test_the_exact_auc_counts_pairs_and_ties(rows) -> None:  # type: ignore[no-untyped-def]
    logits, labels = np.array(rows, np.float64).T
    np.testing.assert_allclose(exact_auc(logits, labels), slow_auc(logits, labels))
    streamed = fed(logits[:, None], labels[:, None])
    np.testing.assert_allclose(streamed.auc()[0], slow_auc(logits, labels))
    np.testing.assert_allclose(streamed.log_loss()[0], exact_log_loss(logits, labels))


@settings(max_examples=40, deadline=None)
@given(scale=st.floats(0.01, 1e4), buckets=st.integers(2, 500), seed=st.integers(0, 99))
def test_the_error_is_at_most_half_the_pairs_that_share_a_bucket(scale, buckets, seed) -> None:  # type: ignore[no-untyped-def]
    logits, labels = scored(300, (0.4,), seed)
    logits = logits * scale
    metrics = fed(logits, labels, buckets=buckets)
    negative, positive = metrics.counts[:, 0]
    bound = 0.5 * (negative * positive).sum() / (negative.sum() * positive.sum())
    assert abs(metrics.auc()[0] - exact_auc(logits[:, 0], labels[:, 0])) <= bound + 1e-12


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 400), max_size=4), seed=st.integers(0, 99))
def test_batches_merges_and_summed_states_equal_one_update(cuts: list[int], seed: int) -> None:
    logits, labels = scored(400, seed=seed)
    bounds = [0, *sorted(cuts), 400]
    parts = [fed(logits[a:b], labels[a:b]) for a, b in pairwise(bounds)]
    merged = StreamingMetrics(2)
    for part in parts:
        merged.merge(part)
    states = [p.state() for p in parts]
    summed = StreamingMetrics.from_state(
        {name: np.sum([s[name] for s in states], axis=0) for name in states[0]}
    )
    whole = fed(logits, labels)
    for metrics in (merged, summed):
        assert np.array_equal(metrics.counts, whole.counts)
        np.testing.assert_allclose(metrics.log_loss(), whole.log_loss(), rtol=1e-12)
        np.testing.assert_array_equal(metrics.auc(), whole.auc())


def test_a_state_is_a_copy() -> None:
    metrics = fed(*scored(50))
    state = metrics.state()
    metrics.update(*scored(50))
    assert state["counts"].sum() < metrics.counts.sum()
    assert StreamingMetrics.from_state(state).n.sum() == state["counts"].sum()


def test_calibration_of_calibrated_scores() -> None:
    logits, labels = scored(200_000)
    metrics = fed(logits, labels)
    predicted, observed, count = metrics.calibration(10)
    assert predicted.shape == observed.shape == count.shape == (2, 10)
    assert np.array_equal(count.sum(1), metrics.n)
    assert (np.diff(predicted) > 0).all()
    assert (np.abs(count / metrics.n[:, None] - 0.1) < 0.01).all()
    spread = np.sqrt(predicted * (1 - predicted) / count)
    assert (np.abs(predicted - observed) < 5 * spread).all()
    assert (metrics.ece() < 0.005).all()
    exact = np.mean(1 / (1 + np.exp(-logits[~np.isnan(labels[:, 0]), 0].astype(np.float64))))
    np.testing.assert_allclose((predicted * count).sum(1)[0] / metrics.n[0], exact, rtol=1e-5)


def test_ece_of_a_shifted_model_is_the_shift() -> None:
    labels = np.array([[1.0], [0.0], [0.0], [0.0]] * 100)
    metrics = fed(np.zeros((400, 1)), labels)
    np.testing.assert_allclose(metrics.ece(), 0.25, atol=1e-3)
    predicted, observed, count = metrics.calibration(4)
    assert sorted(count[0]) == [0, 0, 0, 400]
    assert np.isnan(predicted[0]).sum() == np.isnan(observed[0]).sum() == 3


def test_missing_classes_and_no_rows_are_nan() -> None:
    metrics = fed(np.zeros((2, 3)), np.array([[1, 0, NAN], [1, 1, NAN]]))
    assert np.isnan(metrics.auc()).tolist() == [True, False, True]
    assert np.isnan(metrics.log_loss()).tolist() == [False, False, True]
    assert metrics.n.tolist() == [2, 2, 0]
    assert metrics.positives.tolist() == [2, 1, 0]
    empty = fed(np.zeros((0, 2)), np.zeros((0, 2)))
    assert np.isnan(np.concatenate([empty.auc(), empty.ece(), empty.log_loss()])).all()


def test_any_finite_logit_has_a_bucket() -> None:
    extreme = np.array([[-1e30], [-50.0], [-20.0], [20.0], [50.0], [1e30]], np.float32)
    labels = np.array([[0.0], [0.0], [0.0], [1.0], [1.0], [1.0]])
    metrics = fed(extreme, labels)
    assert metrics.auc()[0] == 1.0
    assert metrics.log_loss()[0] < 1e-8


def test_mistakes_are_one_sentence_and_change_nothing() -> None:
    metrics = fed(*scored(20))
    before = metrics.state()
    good = np.zeros((2, 2))
    for logits, labels, message in [
        (np.zeros((2, 3)), good, r"logits \[2, 3\] and labels \[2, 2\], want both \[rows, 2\]"),
        (np.zeros(2), np.zeros(2), r"want both \[rows, 2\]"),
        (np.full((2, 2), np.inf), good, "4 of 4 logits are not finite"),
        (good, np.full((2, 2), -1.0), r"a label is -1.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            metrics.update(logits, labels)
    with pytest.raises(ValueError, match="3 tasks and 16384 buckets into 2"):
        metrics.merge(StreamingMetrics(3))
    with pytest.raises(ValueError, match="pass what state"):
        StreamingMetrics.from_state({"counts": np.zeros((2, 3, 4))})
    with pytest.raises(ValueError, match="at least 1 task"):
        StreamingMetrics(0)
    with pytest.raises(ValueError, match="bins is 0"):
        metrics.ece(bins=0)
    for name, value in before.items():
        np.testing.assert_array_equal(metrics.state()[name], value)


def test_a_logit_without_a_label_is_not_looked_at() -> None:
    metrics = fed(np.array([[np.nan], [1.0]]), np.array([[NAN], [1.0]]))
    assert metrics.n.tolist() == [1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [0, 1, 3000])
def test_the_compiled_update_counts_as_numpy_does(dtype: type, rows: int) -> None:
    if histogram._compiled() is None:
        pytest.skip("there is no compiled update")
    rng = np.random.default_rng(rows)
    logits = (rng.normal(size=(rows, 3)) * [0.1, 3, 100]).astype(dtype)
    labels = rng.choice([0.0, 1.0, np.nan], size=logits.shape).astype(dtype)
    logits[np.isnan(labels) & (rng.random(logits.shape) < 0.5)] = np.inf
    ours, oracle = StreamingMetrics(3), StreamingMetrics(3)
    ours.update(logits, labels)
    oracle._update_in_numpy(logits, labels)
    assert np.array_equal(ours.counts, oracle.counts)
    np.testing.assert_allclose(ours.loss, oracle.loss, rtol=1e-6 if dtype == np.float32 else 1e-12)
    if rows > 1:
        known = np.argwhere(~np.isnan(labels))[0]
        logits[tuple(known)] = np.nan
        before = ours.counts.copy()
        with pytest.raises(ValueError, match=r"1 of .* logits are not finite"):
            ours.update(logits, labels)
        assert np.array_equal(ours.counts, before)


def test_the_exact_metrics_of_a_few_rows_by_hand() -> None:
    logits = np.array([2.0, -1.0, 0.0, 0.0, np.nan, 3.0])
    labels = np.array([1.0, 0.0, 1.0, 0.0, NAN, 0.0])
    assert exact_auc(logits, labels) == (2 + 1.5) / 6
    softplus = np.log1p(np.exp([-2.0, -1.0, 0.0, 0.0, 3.0]))
    assert exact_log_loss(logits, labels) == pytest.approx(softplus.mean(), rel=1e-14)
    p = 1 / (1 + np.exp(-np.array([-1.0, 0.0, 2.0, 3.0])))
    predicted, rate, count = exact_calibration(logits, labels, 2)
    assert count.tolist() == [3, 2]
    np.testing.assert_allclose(predicted, [(p[0] + 2 * p[1]) / 3, (p[2] + p[3]) / 2])
    np.testing.assert_array_equal(rate, [1 / 3, 1 / 2])
    gaps = 3 * abs(predicted[0] - 1 / 3) + 2 * abs(predicted[1] - 1 / 2)
    assert exact_ece(logits, labels, 2) == pytest.approx(gaps / 5, rel=1e-14)
    predicted, rate, count = exact_calibration(logits, labels)
    assert count.tolist() == [0, 1, 0, 0, 2, 0, 0, 1, 0, 1]
    np.testing.assert_allclose(predicted[[1, 4, 7, 9]], p)
    np.testing.assert_array_equal(rate[[0, 1, 4, 7, 9]], [NAN, 0, 0.5, 1, 0])
    assert exact_ece(logits, labels) == pytest.approx(
        (p[0] + 0 + abs(p[2] - 1) + p[3]) / 5, rel=1e-14
    )


def test_bins_of_exact_calibration_have_equal_counts_and_no_tie_is_cut() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=1_000), (rng.random(1_000) < 0.3).astype(np.float64)
    predicted, rate, count = exact_calibration(logits, labels, 8)
    assert count.tolist() == [125] * 8
    order = np.argsort(logits).reshape(8, 125)
    np.testing.assert_allclose(predicted, (1 / (1 + np.exp(-logits[order]))).mean(1))
    np.testing.assert_allclose(rate, labels[order].mean(1))
    assert exact_calibration(np.zeros(9), labels[:9], 2)[2].tolist() == [0, 9]
    assert exact_calibration(logits, labels, 1)[2].tolist() == [1_000]


def test_the_exact_metrics_take_every_order_and_refuse_what_has_none() -> None:
    infinite = np.float32([-np.inf, -1e30, 1e30, np.inf])
    assert exact_auc(infinite, np.array([0, 0, 1, 1])) == 1
    assert exact_auc(infinite, np.array([0, 1, 0, 1])) == 0.75
    assert exact_log_loss(infinite, np.array([0, 0, 1, 1])) == 0
    assert exact_log_loss(infinite[1:], np.array([0, 0, 1])) == pytest.approx(np.float64(1e30) / 3)
    assert exact_log_loss(infinite, np.array([1, 0, 1, 1])) == np.inf
    assert exact_auc(np.array([3, 1, 2]), np.array([True, False, True])) == 1
    for metric in (exact_auc, exact_log_loss, exact_calibration, exact_ece):
        with pytest.raises(ValueError, match="2 of 3 scores are NaN; the model has diverged"):
            metric(np.array([NAN, 1, NAN, NAN]), np.array([0.0, 1, 1, NAN]))
        for wrong in (0.5, -1.0, 2.0):
            with pytest.raises(ValueError, match=f"a label is {wrong}, want 0, 1, or NaN"):
                metric(np.zeros(3), np.array([0.0, wrong, 1]))
    with pytest.raises(ValueError, match="bins is 0, want at least 1"):
        exact_calibration(np.zeros(2), np.zeros(2), 0)


@pytest.mark.parametrize("labels", [[], [NAN, NAN]])
def test_the_exact_metrics_of_nothing(labels) -> None:  # type: ignore[no-untyped-def]
    logits, labels = np.zeros(len(labels)), np.array(labels)
    for metric in (exact_auc, exact_log_loss, exact_ece):
        assert np.isnan(metric(logits, labels))
    predicted, rate, count = exact_calibration(logits, labels, 3)
    assert np.isnan([predicted, rate]).all()
    assert count.tolist() == [0, 0, 0]
    assert np.isnan(exact_auc(np.zeros(2), np.ones(2)))
    assert np.isnan(exact_auc(np.zeros(2), np.zeros(2)))


def test_rare_predictions_keep_their_digits() -> None:
    predicted, _, _ = exact_calibration(np.array([-40.0]), np.array([0.0]), 1)
    assert predicted[0] == pytest.approx(np.exp(-40.0), rel=1e-12)
