# SPDX-License-Identifier: Apache-2.0
"""Which numbers go into which picture: read off what the plots are asked to draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from components.evaluation import figures as module
from components.evaluation import plots
from components.evaluation.drift import drift
from components.evaluation.figures import (
    PlotData,
    auc_per_day,
    calibration,
    feature_shares,
    figures,
    scores,
    training,
)
from components.registry.metrics import RankerMetrics
from feature_repo.specs import SIMULATOR as SPEC
from tests.run_builders import curve, day_metrics, measured, moved, ranker_metrics

DAY, TASK = "2026-01-09", "click"
TASK_METRICS = {"auc": 0.7, "log_loss": 0.5, "ece": 0.01, "n": 900, "positives": 300}


def plot_data(**parts: Any) -> PlotData:
    """A day of no ranker, no curve and no earlier day, but for the parts that are named."""
    metrics = parts.pop("metrics", day_metrics(SPEC, DAY, {}))
    whole = {"metrics": metrics, "curves": {}, "days": [], "tasks": (TASK,), "task": TASK}
    return PlotData(**{**whole, **parts})


def ranker(auc: float | None) -> RankerMetrics:
    return ranker_metrics({TASK: {**TASK_METRICS, "auc": auc}})


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...]]]:
    """What was drawn: the drawing function's name and all but the axes that it was given."""
    calls: list[tuple[str, tuple[Any, ...]]] = []

    def noting(name: str) -> Callable[..., None]:
        return lambda axes, *arguments, **_: calls.append((name, arguments))

    def panels(titles: Sequence[str], draw: Callable[[Any, int], None], name: str) -> str:
        for place in range(len(titles)):
            draw(Axes(), place)
        return f"<svg>{name}</svg>"

    def single(draw: Callable[[Any], None], name: str) -> str:
        draw(Axes())
        return f"<svg>{name}</svg>"

    for name in ("draw_lines", "draw_calibration", "draw_scores", "draw_shares"):
        monkeypatch.setattr(plots, name, noting(name))
    monkeypatch.setattr(plots, "panels", panels)
    monkeypatch.setattr(plots, "single", single)
    return calls


class Axes:
    """Takes whatever is asked of it."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def test_the_training_of_each_ranker_is_its_steps_and_the_task_s_loss(drawn) -> None:
    points = curve(SPEC, np.random.default_rng(0), steps=5)
    data = plot_data(curves={"feed_sr": points, "dcnv2": points[:2], "absent": []})
    plot = training(data)
    assert plot is not None
    assert plot.names == ("feed_sr", "dcnv2")
    ((_, (lines,)),) = drawn
    assert list(lines) == ["dcnv2", "feed_sr"], "the candidate is drawn last, on top"
    assert lines["feed_sr"] == ([1, 2, 3, 4, 5], [point.tasks[TASK] for point in points])
    assert lines["dcnv2"][0] == [1, 2]
    assert training(plot_data()) is None


def test_the_auc_of_a_day_without_a_ranker_breaks_its_line(drawn) -> None:
    days = [
        day_metrics(SPEC, "2026-01-07", {"feed_sr": ranker(0.7)}),
        day_metrics(SPEC, "2026-01-08", {"feed_sr": ranker(None), "production": ranker(0.6)}),
    ]
    plot = auc_per_day(plot_data(days=days))
    ((_, (lines,)),) = drawn
    assert {name: aucs for name, (_, aucs) in lines.items()} == {
        "production": [None, 0.6],
        "feed_sr": [0.7, None],
    }
    assert plot.names == ("feed_sr", "production")
    assert f"AUC of {TASK}" in plot.note


def test_bins_without_an_impression_are_not_on_the_calibration_curve(drawn) -> None:
    bins = {"predicted": [0.1, None, 0.3], "observed": [0.2, None, 0.0], "count": [5, 0, 2]}
    body = ranker_metrics({TASK: TASK_METRICS}, calibration={TASK: bins})
    calibration(plot_data(metrics=day_metrics(SPEC, DAY, {"feed_sr": body})))
    ((_, (lines, top)),) = drawn
    assert lines == {"feed_sr": ([0.1, 0.3], [0.2, 0.0])}
    assert top == pytest.approx(1.05 * 0.3)


def test_the_scores_of_every_ranker_share_the_candidate_s_edges(drawn) -> None:
    counts = {"edges": [-1, 0, 1], "count": [3, 4], "positives": [1, 1]}
    bodies = {
        name: ranker_metrics({TASK: TASK_METRICS}, scores={TASK: {**counts, "count": count}})
        for name, count in (("feed_sr", [3, 4]), ("dcnv2", [7, 0]))
    }
    plot = scores(plot_data(metrics=day_metrics(SPEC, DAY, bodies)))
    assert drawn == [("draw_scores", ((-1, 0, 1), {"dcnv2": (7, 0), "feed_sr": (3, 4)}))]
    assert plot.names == ("feed_sr", "dcnv2")


def test_the_six_features_that_moved_most_are_drawn(drawn) -> None:
    moves = {f"f{i}": moved(0.1 * i, bins=3 + i).plain() for i in range(9)}
    plot = feature_shares(plot_data(metrics=day_metrics(SPEC, DAY, {}, drift=moves)))
    assert plot is not None
    assert [len(train) for _, (train, _) in drawn] == [11, 10, 9, 8, 7, 6]
    assert all(later[-1] == 0.05 for _, (_, later) in drawn)
    assert feature_shares(plot_data()) is None


def test_a_whole_day_has_five_plots_and_one_without_curves_four(drawn) -> None:
    rng = np.random.default_rng(0)
    body = measured(SPEC, rng, 0.75)
    metrics = day_metrics(SPEC, DAY, {"feed_sr": body}, drift={"hour": moved(0.1).plain()})
    data = plot_data(metrics=metrics, days=[metrics], tasks=SPEC.task_names)
    assert [plot.title for plot in figures(data)] == [
        "AUC per day", "Calibration", "Scores", "Features"
    ]  # fmt: skip
    whole = plot_data(
        metrics=metrics, curves={"feed_sr": curve(SPEC, rng, 3)}, tasks=SPEC.task_names
    )
    assert next(plot.title for plot in figures(whole)) == "Training"
    assert module.DRIFT_PANELS == 6


def test_a_mass_at_one_value_is_drawn_as_a_bin_of_its_own() -> None:
    """Below the mass, the mass, ten bins of the others, missing: a pair of bars each."""
    train = np.random.default_rng(0).exponential(size=(4_000, SPEC.context_width))
    train[train < 2] = 0
    moves = drift(train.astype(np.float32), train[:50].astype(np.float32), SPEC)
    impressions = moves["post_impressions"]
    assert len(impressions.train) == 13
    metrics = day_metrics(SPEC, DAY, {}, drift={"post_impressions": impressions.plain()})
    plot = feature_shares(plot_data(metrics=metrics))
    assert plot is not None
    assert "each value that many rows share" in plot.note
    assert plot.svg.count("var(--production)") == plot.svg.count("fill: var(--feed-sr)") == 13


def test_no_day_that_was_judged_is_an_empty_plot() -> None:
    plot = auc_per_day(plot_data())
    ElementTree.fromstring(plot.svg)
    assert plot.names == ()
