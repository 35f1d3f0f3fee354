# SPDX-License-Identifier: Apache-2.0
"""The tables that are shown are those of the results that are kept."""

import json
import re
import shutil
from pathlib import Path

import pytest

from components.studies.pages.render import MARK, SHORT, render
from components.studies.pages.tables import comparison_table

HOME = Path(__file__).parents[4]
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


def test_every_kept_study_is_shown() -> None:
    pages = "".join((HOME / name).read_text() for name in PAGES)
    shown = {name.removesuffix(SHORT) for _, name, _, _ in MARK.findall(pages)}
    kept = {path.stem.removeprefix("study_") for path in RESULTS.glob("study_*.json")}
    assert shown == kept
