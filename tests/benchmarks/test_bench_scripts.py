# SPDX-License-Identifier: Apache-2.0
"""Every benchmark runs at toy size and ends with one JSON line of the declared form."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py") if p.stem[0] != "_")


def run(name: str, *options: str) -> dict[str, Any]:
    """The record of a toy run."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--toy", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


@pytest.mark.parametrize("name", SCRIPTS)
def test_toy_run_ends_with_one_json_line(name: str) -> None:
    record = run(name)
    assert record.keys() == {"name", "date", "command", "hardware", "versions", "results"}
    assert record["name"] == name
    assert record["command"] == f"python -m benchmarks.{name} --toy"
    assert record["hardware"].keys() == {"cpu", "threads", "instruction_sets"}
    assert {"python", "torch", "numpy"} <= record["versions"].keys()
    assert record["results"]
    for result in record["results"]:
        assert result.keys() == {"setting", "median_ms", "ratios", "facts"}
        assert result["median_ms"]
        numbers = [*result["median_ms"].values(), *result["ratios"].values()]
        assert all(math.isfinite(x) and x > 0 for x in numbers)


def test_shared_context_attention_runs_each_kind_in_each_dtype() -> None:
    results = run("shared_context_attention", "--threads", "1")["results"]
    settings = [result["setting"] for result in results]
    for dtype in ("float32", "bfloat16"):
        kinds = [s["kind"] for s in settings if s["dtype"] == dtype]
        assert kinds == ["serving", "serving", "ragged", "training"]
    for result in results:
        apart = result["facts"]["relative_difference"]
        limit = 1e-5 if result["setting"]["dtype"] == "float32" else 1e-2
        assert apart.keys() == result["median_ms"].keys()
        assert max(apart.values()) < limit
        assert "native" in result["median_ms"] or "native" in result["facts"]
    assert results[0]["facts"]["flex"] == "not run: --no-flex or --toy"


@pytest.mark.slow
def test_flex_attention_is_compared_or_said_to_be_absent_or_wrong() -> None:
    results = run("shared_context_attention", "--flex", "--dtype", "float32")["results"]
    serving = [r for r in results if r["setting"]["kind"] == "serving"]
    assert len(serving) == 2
    for result in serving:
        said = result["facts"].get("flex", "")
        assert ("flex" in result["median_ms"]) != said.startswith(("not run: ", "wrong here: "))
        apart = result["facts"]["relative_difference"]
        assert apart.keys() == result["median_ms"].keys()


def test_rank_answers_the_same_scores_on_both_sides() -> None:
    for result in run("rank", "--dtype", "float32")["results"]:
        assert result["facts"]["largest_difference"] < 1e-4
        assert 0 < result["facts"]["share_of_matmul_rate"]["shared"] < 1
        requests = result["setting"]["batch"] * result["setting"]["N"]
        assert result["facts"]["one_at_a_time"] == f"1 of {requests} candidates run, scaled to all"


def test_streaming_metrics_is_nearer_to_exact_than_its_peer() -> None:
    (result,) = run("streaming_metrics")["results"]
    facts = result["facts"]
    assert facts["two_merged_ranks_equal_one"]
    assert facts["largest_error"] < facts["torchmetrics_largest_error"]
