# SPDX-License-Identifier: Apache-2.0
"""The record that benchmarks share: whose turn it is, what is divided, what is kept."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks import _record
from benchmarks._record import Result, finish, medians_ms, over, parser, rates, start


def test_variants_take_turns_and_the_first_is_not_counted() -> None:
    calls: list[str] = []

    def slow_at_first() -> None:
        time.sleep(0.05 if "slow" not in calls else 0.0)
        calls.append("slow")

    ms = medians_ms({"slow": slow_at_first, "other": lambda: calls.append("other")}, 3)
    assert calls == ["slow", "other"] * 4
    assert 0 < ms["slow"] < 50


def test_a_ratio_is_there_where_both_sides_were_run() -> None:
    pairs = {"split_over_native": ("split", "native"), "dense_over_split": ("dense", "split")}
    assert over({"split": 3.0, "native": 2.0}, pairs) == {"split_over_native": 1.5}


def test_rates_are_work_over_time_and_over_the_limit() -> None:
    facts = rates({"split": 4_000_000_000}, {"split": 20.0, "alone": 1.0}, 400.0)
    assert facts["gflops"] == {"split": 200.0}
    assert facts["share_of_matmul_rate"] == {"split": 0.5}


def test_a_saved_record_is_the_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_record, "RESULTS", tmp_path / "benchmarks" / "results")
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setattr(sys, "argv", ["/anywhere/benchmarks/rank.py", "--save"])
    result = Result(setting={"T": 10}, median_ms={"a": 1.0, "b": 2.0}, ratios={"b_over_a": 2.0})
    finish("rank", [result], threads=2, save=True, peers=["pyarrow"])
    *_, saved, line = capsys.readouterr().out.splitlines()
    (path,) = (tmp_path / "benchmarks" / "results").iterdir()
    record = json.loads(path.read_text())
    assert json.loads(line) == record
    assert saved == f"saved benchmarks/results/{path.name}"
    assert path.name.startswith("rank_")
    assert path.name.endswith(f"_{record['date']}.json")
    assert record["command"] == "python -m benchmarks.rank --save"
    assert record["hardware"]["threads"] == 2
    assert "pyarrow" in record["versions"]
    assert record["results"] == [
        {"setting": {"T": 10}, "median_ms": {"a": 1.0, "b": 2.0}, "ratios": {"b_over_a": 2.0}}
        | {"facts": {}}
    ]


def test_a_figure_that_is_no_number_is_not_recorded() -> None:
    result = Result(setting={}, median_ms={"a": float("nan")}, ratios={})
    with pytest.raises(ValueError, match="JSON compliant"):
        finish("rank", [result], threads=1, save=False)


def test_a_toy_run_is_not_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rank.py", "--toy", "--save"])
    with pytest.raises(SystemExit):
        start(parser("A benchmark."))
    assert "--toy is no measurement" in capsys.readouterr().err
