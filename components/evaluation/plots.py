# SPDX-License-Identifier: Apache-2.0
"""Plots as inline SVG that takes its colours and its font from the page, light or dark.

It draws numbers it is given; it knows nothing of runs, files or rankers beyond their names. The
same numbers give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, FAINT = "#010101", "#020202"
RANKER_COLOURS = {"feed_sr": "#030303", "dcnv2": "#040404", "production": "#050505"}
COLOURS = {
    INK: "var(--muted)",
    FAINT: "var(--rule)",
    "#030303": "var(--feed-sr)",
    "#040404": "var(--dcnv2)",
    "#050505": "var(--production)",
}
"""Stand-ins that no plot mixes, and the page's variables that take their places."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.xmargin": 0.02,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}

Lines = dict[str, tuple[Sequence[Any], Sequence[float | None]]]
"""By ranker: x and y; None breaks the line."""
PANEL = (2.75, 1.95)
"""Inches of one small multiple."""
COLUMNS = 3
SINGLE_HEIGHT = 2.3
"""Inches of a plot over the whole width."""
TICKS = (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
"""Probabilities that are marked on a scale of log-odds."""


def panels(titles: Sequence[str], draw: Callable[[Axes, int], None], name: str) -> str:
    """Small multiples, three a row, as one SVG; `draw(axes, i)` fills the panel of `titles[i]`."""
    rows = -(-len(titles) // COLUMNS)
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(PANEL[0] * COLUMNS, PANEL[1] * rows), layout="constrained")
        grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
        for i, axes in enumerate(grid):
            if i < len(titles):
                axes.set_title(titles[i])
                draw(axes, i)
            else:
                axes.set_axis_off()
        return to_svg(figure)


def single(draw: Callable[[Axes], None], name: str) -> str:
    """One plot over the page's width as SVG."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(PANEL[0] * COLUMNS, SINGLE_HEIGHT), layout="constrained")
        draw(figure.subplots())
        return to_svg(figure)


def to_svg(figure: Figure) -> str:
    """The figure as an `<svg>` element without size, date or fixed colours."""
    FigureCanvasSVG(figure)
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg [^>]*?)width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?)height="[^"]*"', r'\1role="img"', svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = svg.replace("'sans-serif'", "inherit").replace("sans-serif", "inherit")
    for stand_in, colour in COLOURS.items():
        svg = svg.replace(stand_in, colour)
    return svg


def draw_lines(axes: Axes, lines: Lines, *, marker: str = "") -> None:
    """One line a ranker, in its colour."""
    for name, (x, y) in lines.items():
        values = np.array([np.nan if v is None else v for v in y], float)
        colour = RANKER_COLOURS.get(name, INK)
        axes.plot(list(x), values, color=colour, marker=marker, markersize=3.5, label=name)


def draw_calibration(axes: Axes, curves: Lines, top: float) -> None:
    """What was observed against what was predicted, with the diagonal of a calibrated ranker."""
    axes.plot([0, top], [0, top], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    draw_lines(axes, curves, marker="o")
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    axes.locator_params(nbins=4)


def draw_scores(axes: Axes, edges: Sequence[float], counts: Mapping[str, Sequence[int]]) -> None:
    """The share of scores in each bucket of log-odds, labelled as probabilities."""
    for name, count in counts.items():
        share = np.array(count) / max(sum(count), 1)
        colour = RANKER_COLOURS.get(name, INK)
        axes.stairs(share, edges, color=colour, label=name, linewidth=1.3)
        if name == "feed_sr":
            axes.stairs(share, edges, color=colour, fill=True, alpha=0.15)
    there = np.flatnonzero(np.sum(list(counts.values()), axis=0))
    low, high = (edges[there[0]], edges[there[-1] + 1]) if len(there) else (edges[0], edges[-1])
    axes.set_xlim(low - 0.1, high + 0.1)
    marks = [(float(np.log(p / (1 - p))), f"{p:g}") for p in TICKS]
    marks = [(x, text) for x, text in marks if low <= x <= high]
    axes.set_xticks([x for x, _ in marks], [text for _, text in marks])
    axes.set_yticks([])


def draw_shares(axes: Axes, train: Sequence[float], later: Sequence[float]) -> None:
    """The shares of a feature's bins in training and on the day; the last bin is missing."""
    x = np.arange(len(train))
    axes.bar(x - 0.2, train, 0.4, color=RANKER_COLOURS["production"], alpha=0.5)
    axes.bar(x + 0.2, later, 0.4, color=RANKER_COLOURS["feed_sr"], alpha=0.8)
    axes.set_xticks([0, len(train) - 1], ["lowest", "missing"])
    axes.set_yticks([])
