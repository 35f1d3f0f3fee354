# SPDX-License-Identifier: Apache-2.0
"""The quick test files alone, for an answer in a minute: `python -m tests.fast`, `make test-fast`.

Which files are quick was measured: `tests/durations.json` has the seconds of each in a whole run,
set-up of its fixtures included. A file that is not named there is new, and run. Anew:

    make test ARGS=--junitxml=build/tests.xml && .venv/bin/python -m tests.fast --measure
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DURATIONS = ROOT / "tests" / "durations.json"
MEASURED = ROOT / "build" / "tests.xml"
BUDGET = 85.0
"""Seconds of tests, in one process after the other, that a quick answer may take."""


def durations() -> dict[str, float]:
    """Seconds of each test file, as it was measured last."""
    return json.loads(DURATIONS.read_text()) if DURATIONS.is_file() else {}


def quick_files(files: list[str], seconds: dict[str, float], budget: float = BUDGET) -> list[str]:
    """As many files as the budget holds, the quickest first; in the order that they were given."""
    chosen, spent = set(), 0.0
    for file in sorted(files, key=lambda name: seconds.get(name, 0.0)):
        spent += seconds.get(file, 0.0)
        if spent > budget:
            break
        chosen.add(file)
    return [file for file in files if file in chosen]


def measured(report: Path) -> dict[str, float]:
    """Seconds of each test file in a JUnit report of pytest."""
    seconds: dict[str, float] = defaultdict(float)
    for case in ElementTree.parse(report).iter("testcase"):
        parts = case.attrib["classname"].split(".")
        file = next(
            path
            for length in range(len(parts), 0, -1)
            if (path := "/".join(parts[:length]) + ".py") and (ROOT / path).is_file()
        )
        seconds[file] += float(case.attrib["time"])
    return {file: round(seconds[file], 1) for file in sorted(seconds)}


def main(arguments: list[str]) -> int:
    """Measures, or runs the quick files with pytest's arguments."""
    if arguments == ["--measure"]:
        DURATIONS.write_text(json.dumps(measured(MEASURED), indent=1) + "\n")
        return 0
    files = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "tests").rglob("test_*.py"))
    chosen = quick_files(files, durations())
    print(f"{len(chosen)} of {len(files)} test files, the quick ones; make test runs all")
    return int(pytest.main([*arguments, *chosen]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
