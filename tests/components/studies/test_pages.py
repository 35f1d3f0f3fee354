# SPDX-License-Identifier: Apache-2.0
"""The tables that are shown are those of the results that are kept."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from components.studies.contenders import CONTENDERS
from components.studies.intervals import over_seeds, spread
from components.studies.pages import MARK, SHORT, TABLES, render
from components.studies.tables import comparison_table, incremental_table

HOME = Path(__file__).parents[3]
RESULTS = HOME / "benchmarks" / "results"
PAGES = ("README.md", "docs/results.md")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_what_its_results_say(name, tmp_path) -> None:
    page = tmp_path / "page.md"
    shutil.copy(HOME / name, page)
    assert not render(page, RESULTS), f"{name} differs from its results: run make results"


def test_what_appended_candidates_are_is_said_beneath_every_table_that_has_them() -> None:
    pages = "".join((HOME / name).read_text() for name in PAGES)
    tables = re.findall(r"<!-- table compare_.*?<!-- end -->", pages, re.DOTALL)
    tables = [table for table in tables if "Appended" in table]
    assert len(tables) == 3
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


def mark(name: str, page: Path) -> Path:
    """A page with room for one table."""
    page.write_text(f"before\n<!-- table {name} long_dwell -->\n<!-- end -->\nbehind\n")
    return page


def test_a_short_comparison_has_five_rankers_and_what_the_whole_one_says_of_them(tmp_path) -> None:
    page = mark("compare_kuairand_short", tmp_path / "page.md")
    assert render(page, RESULTS)
    assert not render(page, RESULTS)
    before, _, *lines, end, behind = page.read_text().splitlines()
    assert (before, end, behind) == ("before", "<!-- end -->", "behind")
    assert lines[0] == "| ranker | long_dwell AUC | Feed-SR is above by | request |"
    results = json.loads((RESULTS / "study_compare_kuairand.json").read_text())
    whole = [line.split(" | ") for line in comparison_table(results, "long_dwell").splitlines()]
    request = whole[0].index("request")
    short = [" | ".join([*cells[:3], cells[request]]) + " |" for cells in whole if len(cells) > 3]
    assert len(lines) == 2 + 5
    assert [line for line in short[1:] if line in lines] == lines[2:]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("compare_nobody", "there is no .*study_compare_nobody.json"),
        ("ablate_kuairand_short", "of ablate there is no short table; leave '_short' out"),
    ],
)
def test_a_table_that_cannot_be_shown_is_refused_in_one_sentence(name, sentence, tmp_path) -> None:
    page = mark(name, tmp_path / "page.md")
    before = page.read_text()
    with pytest.raises(ValueError, match=sentence) as refusal:
        render(page, RESULTS)
    assert "\n" not in str(refusal.value)
    assert page.read_text() == before


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
    pages = "".join((HOME / name).read_text() for name in PAGES)
    shown = {name.removesuffix(SHORT) for _, name, _, _ in MARK.findall(pages)}
    kept = {path.stem.removeprefix("study_") for path in RESULTS.glob("study_*.json")}
    assert shown == kept
