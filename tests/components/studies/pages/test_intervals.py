# SPDX-License-Identifier: Apache-2.0
"""Means and intervals over seeds, against figures made by hand."""

import math

import pytest

from components.studies.pages.intervals import (
    NORMAL_95,
    Interval,
    difference,
    mean,
    mean_difference,
    metric,
    over_seeds,
    spread,
    variance,
)


def row(*pairs: tuple[float | None, float | None], kind: str = "difference") -> dict:
    """A row whose seeds have these differences and errors."""
    return {"seeds": {str(n): {kind: {"click": pair}} for n, pair in enumerate(pairs)}}


def measured(*aucs: float | None) -> dict:
    """A row whose seeds have these AUCs."""
    return {"seeds": {str(n): {"tasks": {"click": {"auc": auc}}} for n, auc in enumerate(aucs)}}


def test_the_interval_has_the_error_of_the_members_and_that_of_the_seeds() -> None:
    interval = difference(row((0.01, 0.003), (0.03, 0.003)), "click")
    assert interval.mean == pytest.approx(0.02)
    seeds = variance([0.01, 0.03]) / 2
    assert interval.half == pytest.approx(NORMAL_95 * math.sqrt(0.003**2 + seeds))
    assert not interval.clear_of_zero


def test_of_one_seed_the_members_alone_are_known() -> None:
    interval = difference(row((0.01, 0.003)), "click")
    assert interval.half == pytest.approx(NORMAL_95 * 0.003)
    assert interval.clear_of_zero


def test_within_a_day_is_a_kind_of_its_own() -> None:
    within = row((0.01, 0.003), kind="within_difference")
    assert difference(within, "click", "within_difference").mean == pytest.approx(0.01)
    assert math.isnan(difference(within, "click").mean)


def test_a_mean_over_days_has_an_interval_and_waits_for_the_seeds_of_every_day() -> None:
    days = [row((0.01, 0.003), (0.03, 0.003)), row((0.02, 0.004), (0.04, 0.004), (0.9, 0.1))]
    interval = mean_difference(days, "click")
    assert interval.mean == pytest.approx(0.025)
    # members: (.003**2 + .004**2) / 4; seeds: the variance of .015 and .035, over two
    assert interval.half == pytest.approx(1.96 * math.sqrt(0.0025**2 + 0.0002 / 2), rel=1e-3)
    for nothing in ([], [row((None, None))], [row()]):
        assert math.isnan(mean_difference(nothing, "click").mean)


@pytest.mark.parametrize(
    ("interval", "plain", "marked"),
    [
        (Interval(0.0123, 0.001), "+0.0123 ± 0.0010", "**+0.0123 ± 0.0010**"),
        (Interval(-0.0123, 0.02), "-0.0123 ± 0.0200", "-0.0123 ± 0.0200"),
        (Interval(0.01, math.nan), "+0.0100", "+0.0100"),
        (Interval(math.nan, math.nan), "-", "-"),
    ],
)
def test_an_interval_is_bold_where_it_leaves_zero_out(
    interval: Interval, plain: str, marked: str
) -> None:
    assert (str(interval), interval.marked) == (plain, marked)
    assert (-interval).half == interval.half or math.isnan(interval.half)
    assert (-interval).mean == -interval.mean or math.isnan(interval.mean)


def test_a_metric_is_the_mean_over_seeds_and_nothing_where_a_seed_has_none() -> None:
    assert metric(measured(0.6, 0.8), "click", "auc") == pytest.approx(0.7)
    for gone in (measured(0.6, None), measured()):
        assert math.isnan(metric(gone, "click", "auc"))
    assert over_seeds(measured(0.6, 0.8), lambda seed: 2.0) == 2.0


def test_a_spread_is_the_standard_deviation_of_several_seeds() -> None:
    assert spread(measured(0.6, 0.8), "click") == f"0.7000 ± {math.sqrt(0.02):.4f}"
    assert spread(measured(0.6), "click") == "0.6000"
    assert spread(measured(0.6, None), "click") == spread(measured(), "click") == "-"


def test_a_single_value_varies_by_nothing_that_is_known() -> None:
    assert variance([0.3]) == 0
    assert variance([1.0, 3.0]) == 2
    assert mean([1.0, 3.0, 5.0]) == 3
