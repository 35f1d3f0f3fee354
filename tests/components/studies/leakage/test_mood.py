# SPDX-License-Identifier: Apache-2.0
"""What a visit's mood is worth, and what feedback of the visit can reveal of it."""

from __future__ import annotations

import numpy as np
import pytest

from components.layout.paths import Layout
from components.log.sources import SimulatorConfig, simulate
from components.log.sources.feedback import act, log_likelihood
from components.log.sources.simulator import truth_day
from components.studies.leakage.mood import expected_actions, mood_aucs
from tests.raw_builders import exact_auc

SIMULATED = SimulatorConfig(impressions=25_000, members=300, mood=1.5)


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> Layout:  # type: ignore[no-untyped-def]
    layout = Layout.at(tmp_path_factory.mktemp("mood"))
    simulate(layout, SIMULATED)
    return layout


def test_the_likelihood_is_a_density_of_what_is_drawn() -> None:
    """Averaged over draws at a level, the ratio to the density at any other level is one."""
    rng = np.random.default_rng(0)
    level, examined = np.full(200_000, 2.0), np.full(200_000, 0.6)
    acts = act(rng, level, examined)
    drawn = log_likelihood(acts, level, examined)
    assert np.isfinite(drawn).all()
    for other in (0.5, 1.5, 3.0):
        ratio = np.exp(log_likelihood(acts, np.full(200_000, other), examined) - drawn)
        assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(len(ratio))
        assert ratio.std() > 0.05


def test_the_bounds_are_in_order(layout: Layout) -> None:
    aucs = mood_aucs(layout, layout.raw_days())
    for task in ("click", "skip", "long_dwell", "like"):
        worth = aucs[task]
        assert worth["without"] < worth["feedback"] < worth["with"]
        assert worth["revealed"] == worth["feedback"] - worth["without"] > 0.01
        assert worth["planted"] == worth["with"] - worth["without"] < 0.2
    truth = [truth_day(layout, day).to_pandas() for day in layout.raw_days()]
    label = np.concatenate([t["click"] for t in truth])
    for name, kind in (("without", "b"), ("with", "p")):
        exact = exact_auc(label, np.concatenate([t[f"{kind}_click"] for t in truth]))
        assert abs(aucs["click"][name] - exact) < 1e-4


def test_what_feedback_reveals_is_calibrated(layout: Layout) -> None:
    """In each tenth of the expected click rate, clicks are as many as were expected."""
    truth = truth_day(layout, layout.raw_days()[-1])
    columns = {name: truth[name].to_numpy() for name in truth.column_names}
    expected, label = expected_actions(columns)[:, 0], columns["click"]
    for part in np.array_split(np.argsort(expected), 10):
        p = expected[part]
        assert abs(label[part].mean() - p.mean()) < 5 * np.sqrt(p.mean() / len(part))
    first = columns["event_time"] == _first_time(columns)
    assert 0 < first.sum() < len(first)
    better = exact_auc(label[~first], expected[~first])
    assert better > exact_auc(label[~first], columns["b_click"][~first]) + 0.02


def _first_time(columns) -> np.ndarray:  # type: ignore[no-untyped-def,type-arg]
    _, visit = np.unique(columns["visit_id"], return_inverse=True)
    first = np.full(visit.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, visit, columns["event_time"])
    return first[visit]


def test_feedback_that_had_not_arrived_reveals_nothing(layout: Layout) -> None:
    truth = truth_day(layout, layout.raw_days()[-1])
    columns = {name: truth[name].to_numpy() for name in truth.column_names}
    late = {**columns, "arrival_time": columns["arrival_time"] + 10**9}
    changed = {**late, "click": 1 - columns["click"]}
    np.testing.assert_array_equal(expected_actions(late), expected_actions(changed))
    assert np.abs(expected_actions(late) - expected_actions(columns)).max() > 0.05


def test_no_mood_is_worth_nothing(tmp_path) -> None:  # type: ignore[no-untyped-def]
    layout = Layout.at(tmp_path)
    simulate(layout, SIMULATED.model_copy(update={"mood": 0.0, "impressions": 4_000}))
    for worth in mood_aucs(layout, layout.raw_days()).values():
        assert worth["planted"] == 0
        assert abs(worth["revealed"]) < 1e-4
