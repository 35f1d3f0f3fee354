# SPDX-License-Identifier: Apache-2.0
"""The picture of docs/scale.md: what a day costs by the log's age, and the memory by its size."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from benchmarks._loop.figures import compared_cpu_s
from benchmarks._loop.units import Record, cases
from components.studies.pages.figures import STYLE

COLORS = {"before": "#888888", "after": "#0a66c2"}
LIMIT_MIB = 1536


def picture(record: Record) -> str:
    """An SVG; the same record gives the same bytes with the same matplotlib."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 3.4), layout="constrained")
        ages, sizes = figure.subplots(1, 2)
        for code, color in COLORS.items():
            _line(ages, [(r["setting"]["days"], compared_cpu_s(r["facts"]))
                         for r in cases(record, "days", code)], code, color)  # fmt: skip
            _line(sizes, [(r["setting"]["impressions"], r["facts"]["peak_mib"])
                          for r in cases(record, "impressions", code)], code, color)  # fmt: skip
        ages.set(xlabel="days of log", ylabel="CPU-seconds of the last day", ylim=(0, None))
        sizes.axhline(LIMIT_MIB, color="#c2741c", linestyle=":", linewidth=1)
        sizes.set(xscale="log", xlabel="impressions", ylabel="MiB of the largest process")
        sizes.set_ylim(0, None)
        ages.legend(frameon=False)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()


def _line(axes: Any, points: list[tuple[int, float | None]], code: str, color: str) -> None:
    """A code's points; those of a day that died are left out."""
    lived = [(x, y) for x, y in points if y is not None]
    axes.plot([x for x, _ in lived], [y for _, y in lived], "o-", color=color, label=code)
