# SPDX-License-Identifier: Apache-2.0
"""The benchmark runs at toy size, checks its variants, and ends with one JSON line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "shared_context_attention.py"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_toy_run_ends_with_one_json_line(dtype: str) -> None:
    command = [sys.executable, str(SCRIPT), "--toy", "--threads", "1", "--dtype", dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["name"] == f"shared_context_attention_{dtype}"
    assert record["hardware"]["threads"] == 1
    (serving,) = record["result"]["serving"]
    assert set(serving["ms"]) == {"split", "split_cached", "dense_mask"}
    assert serving["one_at_a_time_candidates_run"] == 4
    assert all(value > 0 for value in serving["ms"].values())
    (training,) = record["result"]["training"]
    assert training["sequences"] == 3
