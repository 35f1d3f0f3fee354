# SPDX-License-Identifier: Apache-2.0
"""The figure of the scaling study: AUC over the operations of training, with the fitted line.

The same results give the same bytes with the same matplotlib. Knows no page.
"""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from components.studies.scaling import Line

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "feedsr",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def scaling_figure(results: dict[str, Any], task: str) -> str:
    """An SVG with a point for each size and seed, and the line of all of them.

    Raises:
        ValueError: the results hold fewer than two sizes with an AUC.
    """
    points = _points(results, task)
    operations, aucs = [point[0] for point in points], [point[1] for point in points]
    line = Line.fit(operations, aucs)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.scatter(operations, aucs, color="#0a66c2", zorder=2)
        ends = np.array([min(operations), max(operations)])
        fitted = line.at_one + line.slope * np.log10(ends)
        axes.plot(ends, fitted, color="#888888", label=f"{line.slope:+.4f} for ten times as many")
        for x, y, name in sorted(set(points)):
            axes.annotate(name, (x, y), textcoords="offset points", xytext=(5, -9), fontsize=7)
        axes.set(xscale="log", xlabel="operations of training", ylabel=f"{task} AUC")
        axes.legend(frameon=False, loc="lower right")
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()


def _points(results: dict[str, Any], task: str) -> list[tuple[float, float, str]]:
    """Operations, AUC and the size's name, of every seed that has an AUC."""
    return [
        (seed["training_flops"], seed["tasks"][task]["auc"], name)
        for name, row in results["rows"].items()
        for seed in row["seeds"].values()
        if seed["tasks"][task]["auc"] is not None
    ]
