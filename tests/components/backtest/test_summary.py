# SPDX-License-Identifier: Apache-2.0
"""Seeds together, against figures made by hand."""

import math

import pytest

from components.backtest.summary import summarize

TASKS = ("click", "like")


def figures(auc: float | None, n: int = 10) -> dict:
    return {"auc": auc, "log_loss": 0.5, "ece": 0.1, "n": n, "positives": 4}


def seed(number: int, click: dict, like: dict) -> dict:
    """What a backtest says of one seed of one ranker."""
    card = {
        "tasks": {"click": click, "like": like},
        "segments": {"new": number},
        "within_member": {"click": number},
        "calibration": [],
    }
    return {"seed": number, "rankers": {"dcnv2": card}, "seconds": {"dcnv2": {"train": number}}}


SEEDS = [seed(3, figures(0.6), figures(None)), seed(4, figures(0.8), figures(0.7))]


def test_means_and_standard_deviations_are_over_seeds() -> None:
    whole = summarize(SEEDS, TASKS, within_member=True)
    click, spread = whole["rankers"]["dcnv2"]["click"], whole["spread"]["dcnv2"]["click"]
    assert click == {
        "auc": pytest.approx(0.7),
        "log_loss": 0.5,
        "ece": 0.1,
        "n": 10,
        "positives": 4,
    }
    assert spread == {"auc": pytest.approx(math.sqrt(0.02)), "log_loss": 0, "ece": 0}
    assert isinstance(click["n"], int)


def test_where_a_seed_has_no_figure_there_is_no_mean() -> None:
    whole = summarize(SEEDS, TASKS, within_member=True)
    assert whole["rankers"]["dcnv2"]["like"]["auc"] is None
    assert whole["spread"]["dcnv2"]["like"]["auc"] is None
    assert whole["rankers"]["dcnv2"]["like"]["ece"] == 0.1


def test_of_a_single_seed_there_is_no_spread() -> None:
    whole = summarize(SEEDS[:1], TASKS, within_member=True)
    assert whole["spread"]["dcnv2"]["click"] == {"auc": None, "log_loss": None, "ece": None}
    assert whole["rankers"]["dcnv2"]["click"]["auc"] == 0.6


def test_segments_are_of_the_first_seed_and_each_seed_keeps_its_own_figures() -> None:
    whole = summarize(SEEDS, TASKS, within_member=True)
    assert whole["segments"] == {"dcnv2": {"new": 3}}
    assert whole["within_member"] == {"dcnv2": {"click": 3}}
    assert whole["seconds"] == {"3": {"dcnv2": {"train": 3}}, "4": {"dcnv2": {"train": 4}}}
    assert whole["seeds"][1] == {
        "seed": 4,
        "rankers": {"dcnv2": {"click": figures(0.8), "like": figures(0.7)}},
    }


def test_aucs_within_a_members_day_are_told_where_they_say_something() -> None:
    assert summarize(SEEDS, TASKS, within_member=False)["within_member"] is None
