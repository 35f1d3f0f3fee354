# SPDX-License-Identifier: Apache-2.0
"""What a person sees of a backtest: every figure of the result, in its place."""

import pytest

from components.backtest.table import print_table

FIGURES = {"auc": 0.75, "log_loss": 0.5, "ece": 0.0123, "n": 12345, "positives": 678}
MISSING = {"auc": None, "log_loss": 0.25, "ece": None, "n": 12345, "positives": 0}
RESULT = {
    "rankers": {
        "feed_sr": {"click": FIGURES, "like": MISSING},
        "dcnv2": {"click": {**FIGURES, "auc": 0.7}, "like": MISSING},
    },
    "spread": {
        "feed_sr": {"click": {"auc": 0.0021}, "like": {"auc": None}},
        "dcnv2": {"click": {"auc": None}, "like": {"auc": None}},
    },
    "settings": {
        "train_before": "2026-01-12",
        "test_through": "2026-01-13",
        "config": {"freshness": "30m"},
    },
}


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The table's lines, a word an element."""
    print_table(RESULT, ("click", "like"))
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_the_title_says_the_days_and_how_fresh_they_were(lines: list[list[str]]) -> None:
    title = " ".join(word for line in lines[:2] for word in line)
    assert "trained before 2026-01-12, ranked through 2026-01-13, freshness 30m" in title


def test_a_task_is_named_once_and_has_a_line_a_ranker(lines: list[list[str]]) -> None:
    rows = lines[-4:]
    figures = ["0.5000", "0.0123", "12,345", "678"]
    assert rows[0] == ["click", "feed_sr", "0.7500", "±", "0.0021", *figures]
    assert rows[1] == ["dcnv2", "0.7000", *figures]


def test_a_figure_that_there_is_not_is_a_dash(lines: list[list[str]]) -> None:
    assert lines[-2:] == [
        ["like", "feed_sr", "-", "0.2500", "-", "12,345", "0"],
        ["dcnv2", "-", "0.2500", "-", "12,345", "0"],
    ]
