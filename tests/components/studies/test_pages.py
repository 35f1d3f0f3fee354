# SPDX-License-Identifier: Apache-2.0
"""The tables that are shown are those of the results that are kept."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from components.studies.contenders import CONTENDERS
from components.studies.tables import (
    MARK,
    TABLES,
    comparison_table,
    incremental_table,
    over_seeds,
    render,
    spread,
)

HOME = Path(__file__).parents[3]
RESULTS = HOME / "benchmarks" / "results"


@pytest.mark.parametrize("name", ["README.md", "docs/study.md"])
def test_a_page_shows_what_its_results_say(name, tmp_path) -> None:
    page = tmp_path / "page.md"
    shutil.copy(HOME / name, page)
    assert not render(page, RESULTS), f"{name} differs from its results: run make results"


@pytest.mark.parametrize("name", ["README.md", "docs/study.md"])
def test_what_appended_candidates_are_is_said_beneath_every_table_that_has_them(name) -> None:
    tables = re.findall(r"<!-- table compare_.*?<!-- end -->", (HOME / name).read_text(), re.DOTALL)
    assert tables
    for table in tables:
        rows, note = table.split("\n\n")
        titles = [line.split("|")[1] for line in rows.splitlines() if "Appended" in line]
        assert titles
        assert all(title.endswith("<sup>1</sup> ") for title in titles)
        assert "a candidate does not see itself" in note
        assert "one token an impression" in note


def test_a_table_of_others_has_no_note(tmp_path) -> None:
    results = json.loads((RESULTS / "study_compare_kuairand.json").read_text())
    results["rows"] = {n: results["rows"][n] for n in ("feed_sr", "dcnv2")}
    table = comparison_table(results, "long_dwell")
    assert "<sup>" not in table
    assert table.endswith("|\n")


def test_notes_are_numbered_in_the_order_of_their_rows_and_said_once(monkeypatch) -> None:
    """Two rankers share a note, one has another, one has none."""
    notes = {"dcnv2": "two towers", "lirank": "gated", "dcnv2_taught": "two towers"}
    others = [replace(c, note=notes.get(c.name, "")) for c in CONTENDERS]
    monkeypatch.setattr("components.studies.tables.CONTENDERS", others)
    results = json.loads((RESULTS / "study_compare_kuairand.json").read_text())
    rows, *beneath = comparison_table(results, "click").split("\n\n")
    assert beneath == ["<sup>1</sup> two towers", "<sup>2</sup> gated\n"]
    marked = {line.split("|")[1].strip() for line in rows.splitlines() if "<sup>" in line}
    assert marked == {
        "DCNv2, two towers <sup>1</sup>",
        "DCNv2, three teachers <sup>1</sup>",
        "LiRank (Residual DCN, dense gating, isotonic layer) <sup>2</sup>",
    }


def test_a_daily_study_that_was_stopped_shows_what_it_has() -> None:
    results = json.loads((RESULTS / "study_incremental_kuairand.json").read_text())
    days = sorted({row["day"] for row in results["rows"].values()})
    kept = [f"{days[0]}: cold", f"{days[0]}: warm", f"{days[1]}: cold"]
    rows = {name: results["rows"][name] for name in kept}
    seconds = [over_seeds(rows[name], lambda seed: seed["train_seconds"]) for name in kept]
    lines = incremental_table({**results, "rows": rows}, "long_dwell").splitlines()
    assert lines[2:] == [
        f"| {days[0]} | {spread(rows[kept[0]], 'long_dwell')} | "
        f"{spread(rows[kept[1]], 'long_dwell')} | - | - | "
        f"{seconds[0]:.0f}, {seconds[1]:.0f}, -, - |",
        f"| {days[1]} | {spread(rows[kept[2]], 'long_dwell')} | - | - | - | "
        f"{seconds[2]:.0f}, -, -, - |",
        "| mean after the first day, against cold | reference | - | - | - | |",
    ]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("study_*.json")), ids=lambda path: path.stem)
def test_a_study_that_has_nothing_yet_is_a_table_of_no_rows(path) -> None:
    results = json.loads(path.read_text())
    if "rows" not in results or results["name"] == "scaling":
        pytest.skip("made in one piece, or a line through two sizes at least")
    whole = TABLES[results["name"]](results, "long_dwell").splitlines()
    empty = TABLES[results["name"]]({**results, "rows": {}}, "long_dwell").splitlines()
    assert empty[1] in whole[1]
    assert len(empty) == (3 if results["name"] == "incremental" else 2)


def test_every_kept_study_is_shown() -> None:
    pages = "".join((HOME / name).read_text() for name in ("README.md", "docs/study.md"))
    shown = {name for _, name, _, _ in MARK.findall(pages)}
    kept = {path.stem.removeprefix("study_") for path in RESULTS.glob("study_*.json")}
    assert shown == kept
