# SPDX-License-Identifier: Apache-2.0
"""The benchmark runs at toy size and ends with one JSON line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "streaming_metrics.py"


def test_toy_run_ends_with_one_json_line() -> None:
    command = [sys.executable, str(SCRIPT), "--toy"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["name"] == "streaming_metrics"
    assert set(record["result"]["ms"]) == {"update", "exact_auc", "read_auc"}
    assert all(error < 1e-2 for error in record["result"]["error_by_task"].values())
