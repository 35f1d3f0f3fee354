# SPDX-License-Identifier: Apache-2.0
"""The specification's own numbers: by hand, of ties and ends, and of nothing."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from kernels.streaming_metrics import exact_auc, exact_calibration, exact_ece, exact_log_loss

NAN = float("nan")


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
    assert exact_calibration(np.zeros(1), labels[:1])[2].tolist() == [0] * 5 + [1] + [0] * 4
    ten, eleven = (exact_ece(logits, labels, bins) for bins in (10, 11))
    assert exact_ece(logits, labels) == ten != eleven
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
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(exact_auc(np.arange(2.0), np.ones(2)))
        assert np.isnan(exact_auc(np.arange(2.0), np.zeros(2)))


def test_rare_predictions_keep_their_digits() -> None:
    predicted, _, _ = exact_calibration(np.array([-40.0]), np.array([0.0]), 1)
    assert predicted[0] == pytest.approx(np.exp(-40.0), rel=1e-12)
