# SPDX-License-Identifier: Apache-2.0
"""The benchmark runs at toy size, both sides agree, and it ends with one JSON line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "rank.py"


def test_toy_run_ends_with_one_json_line() -> None:
    command = [sys.executable, str(SCRIPT), "--toy"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["name"] == "rank"
    (setting,) = record["result"]["settings"]
    assert setting["largest_difference"] < 1e-4
    assert setting["gflop"] >= 0 < setting["shared_ms"]
