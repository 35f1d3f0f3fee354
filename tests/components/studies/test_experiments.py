# SPDX-License-Identifier: Apache-2.0
"""The ablation's list: every row is a configuration of its own that stands after its reference."""

from dataclasses import replace

import pytest

from components.config import load_config
from components.studies.ablate import choose_experiments
from components.studies.config import changed, study_config
from components.studies.experiments import (
    ABLATION,
    BOTH,
    PARTS,
    Experiment,
    reference_of,
    with_references,
)
from model.accounting import hstu_layers_per_block
from tests.study_builders import SPLIT

CONFIG = study_config(load_config("kuairand"))
EXPERIMENTS = [*choose_experiments(SPLIT, []), *(e for e in ABLATION if "simulator" not in e.logs)]
"""All, told what they need to know of a log."""


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.row)
def test_every_experiment_is_a_configuration_of_its_own(experiment) -> None:
    for kind in experiment.logs:
        config = load_config("demo" if kind == "simulator" else kind)
        start = changed(study_config(config), experiment.base)
        assert changed(start, experiment.changes) != start


def test_no_two_experiments_are_the_same_trial() -> None:
    assert len(EXPERIMENTS) == len(ABLATION)
    rows = with_references(EXPERIMENTS)
    configs = [changed(changed(CONFIG, e.base), e.changes).model_dump_json() for e in rows]
    assert len(set(configs)) == len(rows) == len({e.row for e in rows})


def test_parts_are_in_the_order_of_their_first_rows() -> None:
    assert [part for part in PARTS if part in ("positions", "head", "history")] == [
        "positions",
        "head",
        "history",
    ]
    assert set(PARTS) == {experiment.part for experiment in ABLATION}
    assert {kind for experiment in ABLATION for kind in experiment.logs} == set(BOTH)


def test_the_reference_is_the_default_with_the_rows_base() -> None:
    plain = Experiment(part="head", name="linear", changes={"a": 1})
    based = replace(plain, part="session", base={"freshness": "30m"})
    assert reference_of(plain).row == "all: default"
    assert reference_of(based).row == "session: default"
    assert reference_of(based).base == based.base
    assert (reference_of(plain).changes, reference_of(based).changes) == ({}, {})


def test_each_reference_comes_once_and_before_its_rows() -> None:
    rows = [experiment.row for experiment in with_references(ABLATION)]
    assert len(set(rows)) == len(rows)
    for experiment in ABLATION:
        assert rows.index(reference_of(experiment).row) < rows.index(experiment.row)


@pytest.mark.parametrize(("name", "impressions"), [("kuairand", 35), ("demo", 85)])
def test_as_many_hstu_layers_as_cost_the_default_s_blocks(name, impressions) -> None:
    """At the mean length of a training sequence of each log, about."""
    blocks = [e.changes["feed_sr"] for e in ABLATION if e.part == "block"]
    assert [b["block"] for b in blocks] == ["hstu_published", "hstu"]
    shape = load_config(name).feed_sr
    matched = shape.layers * hstu_layers_per_block(shape, impressions)
    assert [b["layers"] for b in blocks] == [round(matched)] * 2


def test_the_papers_figure_stands_beside_the_published_block_alone() -> None:
    papers = {e.changes["feed_sr"]["block"]: e.paper for e in ABLATION if e.part == "block"}
    assert papers == {"hstu_published": -0.23, "hstu": None}
