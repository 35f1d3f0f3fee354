# SPDX-License-Identifier: Apache-2.0
"""Which files a quick answer takes: what the budget holds, the new ones, and none that is long."""

from __future__ import annotations

from pathlib import Path

from tests.fast import BUDGET, ROOT, durations, measured, quick_files


def test_the_budget_takes_the_quickest_in_the_given_order() -> None:
    seconds = {"a": 5.0, "b": 1.0, "c": 2.0, "d": 60.0}
    assert quick_files(["a", "b", "c", "d"], seconds, budget=8.0) == ["a", "b", "c"]
    assert quick_files(["d", "c", "new", "b"], seconds, budget=3.0) == ["c", "new", "b"]
    assert quick_files(["a"], seconds, budget=4.9) == []


def test_the_quick_files_are_most_and_fit_the_budget() -> None:
    files = [str(p.relative_to(ROOT)) for p in (ROOT / "tests").rglob("test_*.py")]
    seconds = durations()
    chosen = quick_files(files, seconds)
    assert len(chosen) > len(files) / 2
    assert sum(seconds.get(file, 0.0) for file in chosen) <= BUDGET
    assert max(seconds.values()) > max(seconds.get(file, 0.0) for file in chosen)


def test_a_report_is_summed_by_file(tmp_path: Path) -> None:
    report = tmp_path / "tests.xml"
    report.write_text(
        "<testsuites><testsuite>"
        '<testcase classname="tests.test_fast" name="a" time="1.25"/>'
        '<testcase classname="tests.test_fast.TestClass" name="b" time="1.0"/>'
        '<testcase classname="tests.test_house" name="c" time="0.5"/>'
        "</testsuite></testsuites>"
    )
    assert measured(report) == {"tests/test_fast.py": 2.2, "tests/test_house.py": 0.5}
