# SPDX-License-Identifier: Apache-2.0
"""The scale page: unit costs are slopes of what was measured, and every table is of the record."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks._loop.page import MARK, TABLES, newest, render
from benchmarks._loop.picture import picture
from benchmarks._loop.units import DAYS, NEWS, estimate, units

ROOT = Path(__file__).parents[2]
STEPS = ("ingest", "features", "histories", "materialize", "sequences")


def step(cpu_s: float, died: str = "") -> dict[str, Any]:
    return {
        "wall_s": 2 * cpu_s, "cpu_s": cpu_s, "peak_mib": 100.0, "read_mib": cpu_s,
        "written_mib": {"state": 1.0}, "died": died, "inside_s": 0.0,
    }  # fmt: skip


def one(kind: str, code: str = "after", died: str = "", **setting: int) -> dict[str, Any]:
    """A result whose steps cost 5 CPU-seconds at rest, and what `setting` says beyond."""
    setting = {"impressions": 900, "days": 9, "members": 10, "buckets": 16} | setting
    amount = setting["members"] if kind == "members" else setting["impressions"] / setting["days"]
    names = [f"day:{name}" for name in STEPS]
    if kind == "members":
        names = ["day:features", "day:histories", "day:redis:materialize"]
    steps = {name: step(5 + 1e-3 * amount) for name in names}
    if died:
        steps[f"day:{died}"] = step(3, "MemoryError: no more | of it")
    facts = {
        "steps": steps, "peak_mib": 700.0, "disk_mib": {"features/history": 2.0}, "redis_mib": 4.0,
        "backfill_cpu_s": 10.0,
    }  # fmt: skip
    whole = {"kind": kind, "code": code, "engine": "local", **setting}
    return {"setting": whole, "facts": facts, "ratios": {}, "median_ms": {}}


@pytest.fixture
def record() -> dict[str, Any]:
    results = [one("impressions", impressions=n, code=c) for n in (900, 9_000) for c in
               ("before", "after")]  # fmt: skip
    results += [one("days", days=9), one("days", days=48, impressions=4_800)]
    results += [one("days", "before", "materialize", days=48, impressions=4_800)]
    return {"results": [*results, one("members", members=10), one("members", members=110)]}


def test_a_unit_cost_is_a_slope_without_what_a_process_costs_at_rest(
    record: dict[str, Any],
) -> None:
    costs = {unit.step: unit for unit in units(record)}
    assert set(costs) == set(STEPS)
    for unit in costs.values():
        assert unit.cpu_us == pytest.approx(1_000)
        assert unit.bytes == pytest.approx(1e-3 * 2**20)
    assert costs["ingest"].source == "900 and 9,000 impressions"
    assert costs["histories"].source == "10 and 110 members"


def test_a_step_that_died_has_no_unit_cost(record: dict[str, Any]) -> None:
    dead = one("impressions", impressions=9_000, died="features")
    record["results"] = [r for r in record["results"] if r["setting"]["impressions"] != 9_000]
    assert "features" not in {u.step for u in units({"results": [*record["results"], dead]})}


def test_a_day_is_its_size_times_the_unit_costs(record: dict[str, Any]) -> None:
    day = estimate(record, DAYS[0])
    assert day is not None
    assert day.members == DAYS[0] // NEWS
    seconds = 1e-3 * (3 * DAYS[0] + 2 * day.members)
    assert day.cpu_hours == pytest.approx(seconds / 3600)
    assert day.windows == pytest.approx(day.members * 2 * 2**20 / 110)
    assert day.store == pytest.approx(2 * day.windows)
    assert 4 * (day.executors - 1) < day.cpu_hours <= 4 * day.executors
    assert day.buckets == -(-DAYS[0] * 16 // 900)
    assert estimate({"results": []}, DAYS[0]) is None


def test_every_table_and_the_picture_are_made_of_a_record(
    record: dict[str, Any], tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- loop {name} -->\nold\n<!-- end -->\n" for name in TABLES))
    render(page, record)
    text = page.read_text()
    assert "old" not in text
    tables = {name: table for _, name, table in re.findall(r"(<!-- loop (\S+) -->\n)(.*?)<!-- end",
              text, re.DOTALL)}  # fmt: skip
    assert {name for name, table in tables.items() if table == "not measured\n"} == {"engines"}
    for table in tables.values():
        widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
        assert len(widths) <= 1
    assert "MemoryError: no more / of it" in tables["deaths"]
    assert picture(record) == picture(record)


def test_a_page_that_asks_for_another_table_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- loop nothing -->\n<!-- end -->\n")
    with pytest.raises(ValueError, match="'nothing'; there are aims"):
        render(page, {"results": []})
    with pytest.raises(ValueError, match="with --save first"):
        newest(tmp_path)


def test_the_page_shows_every_table() -> None:
    shown = [name for _, name, _ in MARK.findall((ROOT / "docs" / "scale.md").read_text())]
    assert shown
    assert set(shown) == set(TABLES)
