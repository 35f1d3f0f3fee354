# SPDX-License-Identifier: Apache-2.0
"""The loss by hand: weights that differ from their reciprocals, labels that are missing, tasks that
nobody observed, and parts that add up.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.training.loss import CEILING, mean_over_tasks, observed, task_sums

NAN = float("nan")
# two tasks: every weight counts in one of them once, and one label of each is missing
LOGITS = torch.tensor([[0.3, -1.0], [2.0, 0.5], [-0.7, 9.0], [0.0, -2.0]])
LABELS = torch.tensor([[1.0, 0.0], [0.0, NAN], [NAN, 1.0], [0.25, 1.0]])
WEIGHT = torch.tensor([3.0, 0.5, 5.0, 7.0])


def cross_entropy(logit: float, label: float) -> float:
    """Minus the log-likelihood, from the logistic function itself."""
    p = 1 / (1 + math.exp(-logit))
    return -(label * math.log(p) + (1 - label) * math.log(1 - p))


def test_a_sum_is_each_labels_cross_entropy_times_its_weight() -> None:
    first = 3 * cross_entropy(0.3, 1) + 0.5 * cross_entropy(2.0, 0) + 7 * cross_entropy(0.0, 0.25)
    second = 3 * cross_entropy(-1.0, 0) + 5 * cross_entropy(9.0, 1) + 7 * cross_entropy(-2.0, 1)
    sums = task_sums(LOGITS, LABELS, WEIGHT)
    assert sums.dtype == torch.float32
    assert sums.tolist() == pytest.approx([first, second], rel=1e-6)
    # and as numbers: a test that makes the same mistake sees none
    assert sums.tolist() == pytest.approx([7.57856, 15.82890], abs=1e-4)


def test_the_observed_weight_is_that_of_the_labels_that_are_there() -> None:
    weight = observed(LABELS, WEIGHT)
    assert weight.dtype == torch.float32
    assert weight.tolist() == [10.5, 15.0]
    assert observed(torch.full((2, 2), NAN), torch.ones(2)).tolist() == [0, 0]


def test_the_loss_is_the_mean_over_tasks_of_each_ones_weighted_mean() -> None:
    assert mean_over_tasks(torch.tensor([6.0, 5.0]), torch.tensor([2.0, 10.0])).item() == 1.75
    loss = mean_over_tasks(task_sums(LOGITS, LABELS, WEIGHT), observed(LABELS, WEIGHT))
    assert loss.item() == pytest.approx((7.57856 / 10.5 + 15.82890 / 15) / 2, abs=1e-5)


def test_a_task_that_nobody_observed_counts_as_zero_and_stays_among_the_tasks() -> None:
    labels = torch.stack([LABELS[:, 0], torch.full((4,), NAN)], 1)
    logits = LOGITS.clone().requires_grad_()
    weight = observed(labels, WEIGHT)
    assert weight.tolist() == [10.5, 0]
    loss = mean_over_tasks(task_sums(logits, labels, WEIGHT), weight)
    assert loss.item() == pytest.approx(7.57856 / 10.5 / 2, abs=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[:, 1].tolist() == [0, 0, 0, 0]
    assert (logits.grad[:, 0] != 0).tolist() == [True, True, False, True]


def test_no_rows_have_no_loss_and_an_empty_gradient() -> None:
    logits = torch.zeros(0, 2, requires_grad=True)
    labels, weight = torch.zeros(0, 2), torch.zeros(0)
    sums, total = task_sums(logits, labels, weight), observed(labels, weight)
    assert sums.tolist() == total.tolist() == [0, 0]
    loss = mean_over_tasks(sums, total)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.shape == (0, 2)


def test_the_gradient_of_a_logit_is_its_weighted_error_over_what_was_observed() -> None:
    logits = LOGITS.clone().requires_grad_()
    mean_over_tasks(task_sums(logits, LABELS, WEIGHT), observed(LABELS, WEIGHT)).backward()
    assert logits.grad is not None
    error = torch.where(LABELS.isnan(), 0, LOGITS.sigmoid() - LABELS.nan_to_num())
    expected = error * WEIGHT[:, None] / torch.tensor([10.5, 15.0]) / 2
    torch.testing.assert_close(logits.grad, expected)


def test_logits_in_bf16_are_compared_in_fp32() -> None:
    logits = LOGITS.bfloat16()
    assert task_sums(logits, LABELS, WEIGHT).dtype == torch.float32
    torch.testing.assert_close(
        task_sums(logits, LABELS, WEIGHT), task_sums(logits.float(), LABELS, WEIGHT)
    )


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**16), st.integers(1, 12), st.integers(0, 12))
def test_the_sums_of_parts_add_up_to_the_sum_of_all(seed: int, rows: int, cut: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, 3, generator=generator)
    labels = torch.randint(-1, 2, (rows, 3), generator=generator).float()
    labels[labels < 0] = NAN
    weight = torch.rand(rows, generator=generator) + 0.1
    parts = [slice(0, cut), slice(cut, None)]
    sums = [task_sums(logits[part], labels[part], weight[part]) for part in parts]
    torch.testing.assert_close(sum(sums), task_sums(logits, labels, weight))
    weights = [observed(labels[part], weight[part]) for part in parts]
    torch.testing.assert_close(sum(weights), observed(labels, weight))


# --- a label above one


def test_a_label_above_one_is_its_likelihood_and_the_complements() -> None:
    """`y * -log p + (1 - y) * -log(1 - p)`, below the ceiling."""
    logits = torch.tensor([[-2.0], [0.0], [1.5], [4.9]])
    labels = torch.tensor([[4.0], [2.5], [1.0], [10.0]])
    p = torch.sigmoid(logits.double())
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log())
    far = task_sums(torch.tensor([[8.0]]), torch.tensor([[2.5]]), torch.ones(1))
    assert far.item() == pytest.approx(math.log1p(math.exp(-8)) - 1.5 * 5, abs=1e-5)
    for row in range(4):
        part = slice(row, row + 1)
        sums = task_sums(logits[part], labels[part], torch.tensor([3.0]))
        assert sums.item() == pytest.approx(3 * expected[row].item(), rel=1e-5)


@pytest.mark.parametrize("logit", [-1e30, -1e4, -5.0, 0.0, 4.0, 5.0, 6.0, 1e4, 1e30])
@pytest.mark.parametrize("label", [1.0, 1.5, 10.0])
def test_its_loss_is_finite_and_bounded_below(logit: float, label: float) -> None:
    z = torch.tensor([[logit]], requires_grad=True)
    loss = task_sums(z, torch.tensor([[label]]), torch.ones(1)).sum()
    assert loss.isfinite()
    assert loss.item() >= -(label - 1) * CEILING - 1e-5
    loss.backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    assert -label <= z.grad.item() <= 0
    if logit > CEILING:
        assert abs(z.grad.item()) < 0.01  # and no pull is left above the ceiling


@settings(deadline=None, max_examples=25)
@given(st.floats(0.02, 0.95), st.floats(0.11, 1.0))
def test_the_least_loss_is_at_the_mean_label(relevance: float, propensity: float) -> None:
    """Labels of 1 / e in a share of e * r of the rows: the mean is r, above one though they are."""
    z = torch.linspace(-6, 12, 3_601)
    labels = torch.tensor([[1 / propensity], [0.0]]).expand(2, len(z))
    weight = torch.tensor([propensity * relevance, 1 - propensity * relevance])
    losses = task_sums(z.expand(2, -1), labels, weight)
    assert z[losses.argmin()].sigmoid().item() == pytest.approx(relevance, abs=5e-3)
