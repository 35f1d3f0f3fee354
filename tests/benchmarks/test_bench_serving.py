# SPDX-License-Identifier: Apache-2.0
"""The serving benchmarks run at toy size and end with one JSON line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(("name", "part"), [("wire", "overhead_ms"), ("transformer", "whole_ms")])
def test_toy_run_ends_with_one_json_line(name: str, part: str) -> None:
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--toy"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["name"] == name
    assert record["result"][part].keys() == {"p50", "p99"}
