# SPDX-License-Identifier: Apache-2.0
"""The tables that are shown are those of the results that are kept."""

import shutil
from pathlib import Path

import pytest

from components.study.tables import MARK, render

HOME = Path(__file__).parents[3]
RESULTS = HOME / "benchmarks" / "results"


@pytest.mark.parametrize("name", ["README.md", "docs/study.md"])
def test_a_page_shows_what_its_results_say(name, tmp_path) -> None:
    page = tmp_path / "page.md"
    shutil.copy(HOME / name, page)
    assert not render(page, RESULTS), f"{name} differs from its results: run make results"


def test_every_kept_study_is_shown() -> None:
    pages = "".join((HOME / name).read_text() for name in ("README.md", "docs/study.md"))
    shown = {name for _, name, _, _ in MARK.findall(pages)}
    kept = {path.stem.removeprefix("study_") for path in RESULTS.glob("study_*.json")}
    assert shown == kept
