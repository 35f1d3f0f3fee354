# SPDX-License-Identifier: Apache-2.0
"""Streaming metrics against exact ones, their merging, and their edges."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.streaming_metrics import StreamingMetrics, exact_auc, exact_log_loss, histogram

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
def test_batches_merges_and_sums_in_place_equal_one_update(cuts: list[int], seed: int) -> None:
    """An all-reduce adds in place, as the second of these does."""
    logits, labels = scored(400, seed=seed)
    bounds = [0, *sorted(cuts), 400]
    parts = [fed(logits[a:b], labels[a:b]) for a, b in pairwise(bounds)]
    merged, summed = StreamingMetrics(2), parts[0]
    for part in parts:
        merged.merge(part)
    for part in parts[1:]:
        summed.counts += part.counts
        summed.loss += part.loss
    whole = fed(logits, labels)
    for metrics in (merged, summed):
        assert np.array_equal(metrics.counts, whole.counts)
        np.testing.assert_allclose(metrics.log_loss(), whole.log_loss(), rtol=1e-12)
        np.testing.assert_array_equal(metrics.auc(), whole.auc())
    summed.update(logits, labels)
    assert np.array_equal(summed.counts, 2 * whole.counts)


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
    counts, loss = metrics.counts.copy(), metrics.loss.copy()
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
    with pytest.raises(ValueError, match="at least 1 task"):
        StreamingMetrics(0)
    with pytest.raises(ValueError, match="bins is 0"):
        metrics.ece(bins=0)
    np.testing.assert_array_equal(metrics.counts, counts)
    np.testing.assert_array_equal(metrics.loss, loss)


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


@pytest.fixture(params=["as it is", "NumPy"])
def either(request, monkeypatch) -> str:
    """The compiled update, where there is one, and its portable half."""
    if request.param == "NumPy":
        monkeypatch.setattr(histogram, "_compiled", lambda: None)
    return str(request.param)


FEW_X = np.array([[8.0, -1e30], [-8.0, 0.0], [0.0, 8 / 3], [24.0, 1e30], [1e30, np.nan]])
FEW_Y = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, NAN]])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_buckets_and_losses_by_hand(either: str, dtype: type) -> None:
    """`x / (8 + |x|)` is .5, -.5, 0, .75, 1 and -1, 0, .25, 1: eight buckets from -1 to 1."""
    metrics = StreamingMetrics(2, buckets=8)
    for _ in range(2):
        metrics.update(FEW_X.astype(dtype), FEW_Y.astype(dtype))
    want = np.zeros((2, 2, 8), int)
    want[1, 0, [6, 4, 7]] = 2
    want[0, 0, [2, 7]] = 2
    want[0, 1, [0, 5, 7]] = 2
    want[1, 1, 4] = 2
    np.testing.assert_array_equal(metrics.counts, want)
    first = np.log1p(np.exp([-8.0, -8.0, 0.0, 24.0])).sum()
    second = np.log1p(np.exp([0.0, 8 / 3])).sum() + np.float64(dtype(1e30))
    np.testing.assert_allclose(metrics.loss, [2 * first, 2 * second], rtol=1e-6)
    assert metrics.n.tolist() == [10, 8]
    assert metrics.positives.tolist() == [6, 2]
    np.testing.assert_allclose(metrics.auc(), [(1 + 1 + 1.5) / 6, 1 / 3])
    np.testing.assert_allclose(metrics.log_loss(), metrics.loss / [10, 8])


def test_the_first_and_last_rows_of_a_batch_are_counted(either: str) -> None:
    """Blocks of the compiled update are 1024 elements long."""
    for rows in (1, 511, 512, 513, 1024, 1025):
        metrics = StreamingMetrics(2, buckets=4)
        labels = np.zeros((rows, 2))
        labels[[0, -1]] = 1
        metrics.update(np.full((rows, 2), 30.0), labels)
        assert metrics.positives.tolist() == [min(rows, 2)] * 2
        assert metrics.n.tolist() == [rows] * 2
        for place in (0, -1):
            wrong = np.full((rows, 2), 30.0)
            wrong[place, 1] = -np.inf
            with pytest.raises(ValueError, match=f"1 of {2 * rows} logits are not finite"):
                metrics.update(wrong, labels)
        assert metrics.n.tolist() == [rows] * 2


def test_other_types_of_numbers_are_taken(either: str) -> None:
    want = fed(np.array([[2.0], [-1.0], [0.0]]), np.array([[1.0], [0.0], [1.0]]))
    for logits in (np.float16([[2], [-1], [0]]), np.array([[2], [-1], [0]])):
        for labels in (np.array([[1], [0], [1]]), np.array([[True], [False], [True]])):
            metrics = StreamingMetrics(1)
            metrics.update(logits, labels)
            np.testing.assert_array_equal(metrics.counts, want.counts)
            np.testing.assert_allclose(metrics.loss, want.loss, rtol=1e-3)


def test_what_is_compiled_is_used(monkeypatch) -> None:
    if histogram._compiled() is None:
        pytest.skip("there is no compiled update")
    monkeypatch.setattr(StreamingMetrics, "_update_in_numpy", lambda *_: pytest.fail("NumPy's"))
    for dtype in (np.float32, np.float64):
        fed(FEW_X.astype(dtype), FEW_Y.astype(dtype))


def test_the_middles_of_the_buckets_by_hand() -> None:
    logits = np.array([-24.0, -8 / 3, 8 / 3, 24.0])
    np.testing.assert_allclose(
        StreamingMetrics(1, buckets=4).probability_B(), 1 / (1 + np.exp(-logits)), rtol=1e-6
    )
    assert StreamingMetrics(1).buckets == 16384


def test_the_curve_and_its_error_by_hand() -> None:
    """Four buckets of two tasks; the second has but one label."""
    metrics = StreamingMetrics(2, buckets=4)
    metrics.counts[:, 0] = [[3, 0, 1, 0], [1, 0, 1, 2]]
    metrics.counts[1, 1, 1] = 1
    low, second, third, high = metrics.probability_B()
    predicted, observed, count = metrics.calibration(2)
    assert count.tolist() == [[4, 4], [0, 1]]
    np.testing.assert_allclose(predicted, [[low, (third + high) / 2], [NAN, second]])
    np.testing.assert_array_equal(observed, [[1 / 4, 3 / 4], [NAN, 1]])
    first = (abs(low - 1 / 4) + abs((third + high) / 2 - 3 / 4)) / 2
    np.testing.assert_allclose(metrics.ece(2), [first, 1 - second])
    assert metrics.calibration()[2].tolist() == [
        [0, 0, 4, 0, 0, 0, 2, 0, 2, 0],
        [0, 0, 0, 0, 0, 1, 0, 0, 0, 0],
    ]
    np.testing.assert_allclose(
        metrics.ece()[0], (4 * abs(low - 1 / 4) + 2 * abs(third - 1 / 2) + 2 * (1 - high)) / 8
    )
    spread = fed(*scored(500))
    assert spread.ece().tolist() == spread.ece(10).tolist() != spread.ece(11).tolist()
    predicted, observed, count = metrics.calibration(1)
    assert count.tolist() == [[8], [1]]
    np.testing.assert_array_equal(observed, [[4 / 8], [1]])
    assert StreamingMetrics(1, buckets=2).calibration(3)[2].tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("arguments", [(0, 2), (-1, 9), (1, 1), (1, 0)])
def test_no_task_and_no_two_buckets_are_refused(arguments: tuple[int, int]) -> None:
    tasks, buckets = arguments
    with pytest.raises(ValueError, match=rf"StreamingMetrics\({tasks}, {buckets}\): want at least"):
        StreamingMetrics(*arguments)
    assert StreamingMetrics(1, 2).counts.shape == (2, 1, 2)


def test_merging_adds_and_wants_the_same_tasks_and_buckets() -> None:
    counts, loss = np.arange(24).reshape(2, 3, 4), np.array([1.0, 2.0, 4.0])
    metrics = StreamingMetrics(3, 4)
    metrics.counts += counts
    metrics.loss += loss
    metrics.merge(metrics)
    np.testing.assert_array_equal(metrics.counts, 2 * counts)
    np.testing.assert_array_equal(metrics.loss, 2 * loss)
    for other in (StreamingMetrics(3, 5), StreamingMetrics(2, 4)):
        with pytest.raises(ValueError, match="into 3 tasks and 4 buckets; build both alike"):
            metrics.merge(other)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((3, 2)), np.zeros((2, 2))),
        (np.zeros((2, 2)), np.zeros((3, 2))),
        (np.zeros((2, 1)), np.zeros((2, 2))),
        (np.zeros((2, 2)), np.zeros((2, 1))),
        (np.zeros((2, 3)), np.zeros((2, 3))),
        (np.zeros(()), np.zeros(())),
        (np.zeros((2, 2, 1)), np.zeros((2, 2, 1))),
    ],
)
def test_a_wrong_shape_is_one_sentence(either: str, logits, labels) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"want both \[rows, 2\]"):
        StreamingMetrics(2).update(logits, labels)


@pytest.mark.parametrize("wrong", [0.5, 2.0, -1.0, np.inf])
def test_the_first_wrong_label_is_named(either: str, wrong: float) -> None:
    labels = np.array([[0.0], [1.0], [NAN], [wrong], [3.0]])
    with pytest.raises(ValueError, match=f"a label is {wrong}, want 0, 1, or NaN"):
        fed(np.zeros((5, 1)), labels)
