# SPDX-License-Identifier: Apache-2.0
"""The figure of the scaling study: a point a seed, the line of all, the same bytes again."""

import json
import re

import pytest

from components.studies.pages.figures import scaling_figure
from components.studies.scaling import Line
from tests.study_builders import kept_studies

RESULTS = json.loads(kept_studies("scaling")[0].read_bytes())


def test_a_size_is_named_and_the_line_says_its_slope() -> None:
    figure = scaling_figure(RESULTS, "click")
    assert figure == scaling_figure(RESULTS, "click")
    for name in RESULTS["rows"]:
        assert name in figure
    seeds = [seed for row in RESULTS["rows"].values() for seed in row["seeds"].values()]
    line = Line.fit(
        [seed["training_flops"] for seed in seeds],
        [seed["tasks"]["click"]["auc"] for seed in seeds],
    )
    assert f"{line.slope:+.4f} for ten times as many" in figure
    assert "click AUC" in figure


def points(figure: str) -> int:
    """How many points are drawn."""
    drawn = re.search(r'<g id="PathCollection_1">.*?</g>\s*</g>', figure, re.DOTALL)
    assert drawn
    return drawn[0].count("<use")


def test_a_seed_without_an_auc_is_no_point() -> None:
    """One class on the test day, or a training that diverged."""
    both = json.loads(json.dumps(RESULTS))
    for row in both["rows"].values():
        row["seeds"]["9"] = {"training_flops": 1e15, "tasks": {"click": {"auc": None}}}
    figure = scaling_figure(both, "click")
    assert figure == scaling_figure(RESULTS, "click")
    assert points(figure) == sum(len(row["seeds"]) for row in RESULTS["rows"].values())
    for row in both["rows"].values():
        row["seeds"] = {"9": row["seeds"]["9"]}
    with pytest.raises(ValueError, match="at least two sizes"):
        scaling_figure(both, "click")
