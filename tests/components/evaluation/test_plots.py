# SPDX-License-Identifier: Apache-2.0
"""What is drawn of numbers: read off matplotlib's own artists, and off the SVG."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from components.evaluation.plots import (
    RANKER_COLOURS,
    draw_calibration,
    draw_lines,
    draw_scores,
    draw_shares,
    panels,
    single,
    to_svg,
)


@pytest.fixture
def axes() -> Axes:
    return Figure().subplots()


def test_each_ranker_has_its_colour_and_none_breaks_the_line(axes: Axes) -> None:
    draw_lines(axes, {"dcnv2": ([1, 2, 3], [0.5, None, 0.7]), "other": ([1], [0.1])})
    line, other = axes.get_lines()
    assert line.get_color() == RANKER_COLOURS["dcnv2"]
    assert other.get_color() not in RANKER_COLOURS.values()
    np.testing.assert_array_equal(line.get_ydata(), [0.5, np.nan, 0.7])
    assert list(line.get_xdata()) == [1, 2, 3]


def test_a_calibrated_ranker_lies_on_the_dashed_diagonal(axes: Axes) -> None:
    draw_calibration(axes, {"feed_sr": ([0.1, 0.2], [0.1, 0.2])}, 0.25)
    diagonal, curve = axes.get_lines()
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 0.25]
    assert diagonal.get_linestyle() == "--"
    assert list(curve.get_xdata()) == list(curve.get_ydata()) == [0.1, 0.2]
    assert axes.get_xlim() == axes.get_ylim() == (0, 0.25)


def test_scores_are_shares_and_the_scale_ends_at_the_last_that_is_there(axes: Axes) -> None:
    edges = [-3.0, -2.0, -1.0, 0.0, 1.0]
    draw_scores(axes, edges, {"dcnv2": [0, 2, 0, 0], "feed_sr": [0, 1, 3, 0]})
    outlines = {p.get_label(): p for p in axes.patches if not p.get_label().startswith("_")}
    np.testing.assert_array_equal(outlines["feed_sr"].get_data().values, [0, 0.25, 0.75, 0])
    np.testing.assert_array_equal(outlines["dcnv2"].get_data().values, [0, 1, 0, 0])
    assert axes.get_xlim() == (-2.1, 0.1)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.3", "0.5"]
    assert axes.get_xticks() == pytest.approx([np.log(0.3 / 0.7), 0])


def test_scores_of_nobody_have_the_whole_scale(axes: Axes) -> None:
    draw_scores(axes, [-3.0, 0.0, 3.0], {"feed_sr": [0, 0]})
    assert axes.get_xlim() == (-3.1, 3.1)


def test_shares_are_pairs_of_bars_and_the_last_is_missing(axes: Axes) -> None:
    draw_shares(axes, [0.5, 0.3, 0.2], [0.1, 0.9, 0.0])
    middles = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
    assert middles == pytest.approx([-0.2, 0.8, 1.8, 0.2, 1.2, 2.2])
    assert [bar.get_height() for bar in axes.patches] == [0.5, 0.3, 0.2, 0.1, 0.9, 0.0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["lowest", "missing"]
    assert list(axes.get_xticks()) == [0, 2]


def test_the_page_gives_colours_font_and_size() -> None:
    svg = single(lambda axes: draw_lines(axes, {"feed_sr": ([0, 1], [0, 1])}), "x")
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert root.get("role") == "img"
    assert root.get("viewBox")
    assert root.get("width") is root.get("height") is None
    assert "var(--feed-sr)" in svg
    assert "var(--rule)" in svg
    assert not re.search(r"#0[1-9]0[1-9]0[1-9]\b", svg), "a stand-in is left"
    assert "sans-serif" not in svg
    assert "metadata" not in svg


def test_the_same_numbers_give_the_same_bytes_and_another_name_other_ids() -> None:
    def draw(axes: Axes, place: int) -> None:
        draw_shares(axes, [0.5, 0.5], [place, 0])

    first = panels(["a", "b"], draw, "features")
    assert panels(["a", "b"], draw, "features") == first
    assert panels(["a", "b"], draw, "others") != first


def test_panels_are_three_a_row_and_each_has_its_title() -> None:
    places: list[int] = []
    svg = panels([f"title {i}" for i in range(4)], lambda _, place: places.append(place), "x")
    assert places == [0, 1, 2, 3]
    shown = re.findall(r">(title \d)<", svg)
    assert shown == ["title 0", "title 1", "title 2", "title 3"]
    wide = [float(side) for side in re.search(r'viewBox="([^"]*)"', svg)[1].split()]  # type: ignore[index]
    assert wide[2] / wide[3] == pytest.approx(3 * 2.75 / (2 * 1.95), rel=1e-3)
    drawn = [part for part in svg.split('id="axes_')[1:] if "<path" in part.split("</defs>")[0]]
    assert len(drawn) == 4, "places that no title fills stay empty"


def test_an_svg_of_a_figure_is_whole() -> None:
    figure = Figure()
    figure.subplots().set_title("a < b & c")
    assert "a &lt; b &amp; c" in to_svg(figure)
    ElementTree.fromstring(to_svg(figure))
