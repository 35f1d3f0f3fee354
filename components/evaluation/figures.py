# SPDX-License-Identifier: Apache-2.0
"""The plots of a day's report: which numbers go into which picture, and what to read in it.

It takes the day's metrics and training curves; how a line is drawn is
`components.evaluation.plots`, and where the files are is `components.evaluation.report`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from components.evaluation import plots
from components.registry.gate import CANDIDATE
from components.registry.metrics import DayMetrics, RankerMetrics
from components.registry.records import CurvePoint

DRIFT_PANELS = 6


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A titled picture with a sentence on how to read it, and the rankers its key names."""

    title: str
    note: str
    svg: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PlotData:
    """What the plots of a day are drawn from.

    Attributes:
        metrics: the day's metrics.
        curves: the points of each ranker's training curve.
        days: the metrics of every day up to this one, in order.
        tasks: the panels, in order.
        task: the task that the gate is on.
    """

    metrics: DayMetrics
    curves: Mapping[str, Sequence[CurvePoint]]
    days: Sequence[DayMetrics]
    tasks: Sequence[str]
    task: str

    @property
    def rankers(self) -> dict[str, RankerMetrics]:
        """Each ranker's part of the metrics; the candidate last, so that it is drawn on top."""
        measured = self.metrics.rankers
        names = [name for name in reversed(plots.RANKER_COLOURS) if name in measured]
        return {name: measured[name] for name in names}


def figures(data: PlotData) -> list[Plot]:
    """Every plot there is something to draw for."""
    made = [
        training(data),
        auc_per_day(data),
        calibration(data),
        scores(data),
        feature_shares(data),
    ]
    return [plot for plot in made if plot is not None]


def training(data: PlotData) -> Plot | None:
    """The training loss of each task."""
    curves = {name: points for name, points in data.curves.items() if points}
    if not curves:
        return None
    few = max(len(points) for points in curves.values()) < 3

    def draw(axes: Axes, i: int) -> None:
        lines: plots.Lines = {
            name: ([p.step for p in points], [p.tasks[data.tasks[i]] for p in points])
            for name, points in reversed(curves.items())
        }
        plots.draw_lines(axes, lines, marker="o" if few else "")
        axes.locator_params(axis="x", nbins=4, integer=True)
        axes.locator_params(axis="y", nbins=4)

    return Plot(
        title="Training",
        note="Weighted cross-entropy of each task over optimiser steps.",
        svg=plots.panels(data.tasks, draw, "training"),
        names=tuple(curves),
    )


def auc_per_day(data: PlotData) -> Plot:
    """The next-day AUC of each ranker, day after day."""
    names = [n for n in plots.RANKER_COLOURS if any(n in day.rankers for day in data.days)]
    labels = [day.day for day in data.days]

    def auc(day: DayMetrics, name: str) -> float | None:
        ranker = day.rankers.get(name)
        return ranker.tasks[data.task].auc if ranker else None

    def draw(axes: Axes) -> None:
        places = range(len(labels))
        lines: plots.Lines = {
            name: (places, [auc(day, name) for day in data.days]) for name in reversed(names)
        }
        plots.draw_lines(axes, lines, marker="o")
        step = max(-(-len(labels) // 10), 1)
        axes.set_xticks(list(places)[::step], labels[::step])
        axes.set_xlim(-0.5, max(len(labels), 1) - 0.5)
        axes.locator_params(axis="y", nbins=5)

    return Plot(
        title="AUC per day",
        note=f"AUC of {data.task} on each day, by the model trained through the day before.",
        svg=plots.single(draw, "auc-per-day"),
        names=tuple(names),
    )


def calibration(data: PlotData) -> Plot:
    """Observed against predicted rates of each task."""
    rankers, tasks = data.rankers, data.tasks

    def curve(name: str, task: str) -> tuple[list[float | None], list[float | None]]:
        bins = rankers[name].calibration[task]
        kept = [i for i, count in enumerate(bins.count) if count]
        return [bins.predicted[i] for i in kept], [bins.observed[i] for i in kept]

    def draw(axes: Axes, i: int) -> None:
        lines: plots.Lines = {name: curve(name, tasks[i]) for name in rankers}
        top = max((v or 0.0 for x, y in lines.values() for v in [*x, *y]), default=1.0)
        plots.draw_calibration(axes, lines, 1.05 * top or 1.0)

    return Plot(
        title="Calibration",
        note="Observed rate against mean predicted probability; the dashed line is a ranker that "
        "means what it says. Rare tasks have few positives in a bin, so expect noise there.",
        svg=plots.panels(tasks, draw, "calibration"),
        names=tuple(reversed(rankers)),
    )


def scores(data: PlotData) -> Plot:
    """The distribution of predicted probabilities of each task."""
    rankers, tasks = data.rankers, data.tasks

    def draw(axes: Axes, i: int) -> None:
        counts = {name: ranker.scores[tasks[i]].count for name, ranker in rankers.items()}
        plots.draw_scores(axes, rankers[CANDIDATE].scores[tasks[i]].edges, counts)

    return Plot(
        title="Scores",
        note="Share of the day's impressions by predicted probability, on a log-odds scale.",
        svg=plots.panels(tasks, draw, "scores"),
        names=tuple(reversed(rankers)),
    )


def feature_shares(data: PlotData) -> Plot | None:
    """The distributions of the context features that moved most."""
    moved = data.metrics.most_moved(DRIFT_PANELS)
    if not moved:
        return None

    def draw(axes: Axes, i: int) -> None:
        plots.draw_shares(axes, moved[i][1].train, moved[i][1].eval)

    return Plot(
        title="Features",
        note="Distributions of the context features that moved most: training in grey, the day in "
        "colour, from the lowest. Bins are deciles of training, and each value that many rows "
        "share is one of its own, as codes are; the last pair is missing values.",
        svg=plots.panels([name for name, _ in moved], draw, "features"),
    )
