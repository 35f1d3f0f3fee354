# SPDX-License-Identifier: Apache-2.0
"""What a person sees of a leakage study: every figure, its interval, and why there may be none."""

import copy
from typing import Any

import pytest

from components.studies.leakage.table import print_tables


def difference(value: float | None) -> dict[str, float | None]:
    if value is None:
        return {"value": None, "low": None, "high": None}
    return {"value": value, "low": value - 0.01, "high": value + 0.03}


RESULT: dict[str, Any] = {
    "tasks": {
        "click": {
            "auc": {"reported": 0.7, "history": 0.69, "served": 0.68, "honest": 0.685, "day": 0.6},
            "leaked": difference(0.02),
            "recoverable": difference(-0.005),
            "net": difference(0.015),
        },
        "like": {
            "auc": dict.fromkeys(("reported", "history", "served", "honest", "day")),
            "leaked": difference(None),
            "recoverable": difference(None),
            "net": difference(None),
        },
    },
    "sessions": {
        "targets": 1200,
        "known_cut": 300,
        "sessions": 4000,
        "sessions_of_many": 1000,
        "share_of_many": 0.25,
        "share_cut": 0.125,
    },
    "planted": {
        "click": {"revealed": 0.025, "planted": 0.1},
        "like": {"revealed": -0.001, "planted": 0.2},
    },
    "settings": {"train_before": "2026-01-11", "test_through": "2026-01-13"},
}


def printed(capsys: pytest.CaptureFixture[str], **changes: Any) -> list[list[str]]:
    """The lines, a word an element."""
    print_tables({**copy.deepcopy(RESULT), **changes})
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_the_aucs_and_their_differences_are_in_their_places(capsys) -> None:
    lines = printed(capsys)
    assert ["click", "0.7000", "0.6900", "0.6800", "0.6850", "0.6000"] in lines
    figures = ["+0.0200", "±0.0200", "-0.0050", "±0.0200", "+0.0150", "±0.0200"]
    assert ["click", *figures, "+0.0250", "+0.1000"] in lines


def test_what_is_not_known_is_a_dash(capsys) -> None:
    lines = printed(capsys)
    assert ["like", *["-"] * 5] in lines
    assert ["like", *["-"] * 3, "-0.0010", "+0.2000"] in lines


def test_of_a_log_whose_truth_nobody_knows_none_is_shown(capsys) -> None:
    words = {word for line in printed(capsys, planted=None) for word in line}
    assert not words & {"revealed", "planted"}
    assert "leaked" in words


def test_the_heading_counts_sessions_and_says_where_there_is_nothing_to_cut(capsys) -> None:
    heading = " ".join(word for line in printed(capsys) for word in line)
    assert "trained before 2026-01-11, ranked through 2026-01-13" in heading
    assert "25.0% of 4,000 sessions" in heading
    assert "12.5% of 1,200 targets" in heading
    assert "nothing to cut" not in heading
    sessions = {**RESULT["sessions"], "known_cut": 0}
    told = " ".join(word for line in printed(capsys, sessions=sessions) for word in line)
    assert "nothing to cut" in told
