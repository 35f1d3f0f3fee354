# SPDX-License-Identifier: Apache-2.0
"""The pictures: drawn from what is, kept small, shown by a page with words for who cannot see."""

from __future__ import annotations

import ast
import re
import shutil
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from tests.script_loader import ROOT, load

FOLDER = ROOT / "docs" / "pictures"
DRAWINGS = ("mask.svg", "day.svg")
LIMITS = {"feed.png": 150_000, "report.png": 150_000, "scaling.svg": 30_000, "scale.svg": 60_000}
LIMITS |= dict.fromkeys(DRAWINGS, 30_000)
"""Most bytes of each picture."""
PIPELINE = ROOT / "components" / "loop" / "pipeline.py"
SHOWN = re.compile(r"!\[([^\]]+)\]\(([^)\s]+)\)")


hooks, mask, pictures = (load(f"docs/{name}.py") for name in ("hooks", "mask", "pictures"))


def test_the_mask_is_what_its_source_draws() -> None:
    assert mask.PICTURE.read_bytes() == mask.draw().encode(), "run python docs/mask.py"


def test_a_cell_of_the_mask_is_filled_where_the_specification_sees() -> None:
    filled = {"known", "own", "whole", "self"}
    kinds = set()
    for row, columns in enumerate(mask.seen()):
        for column, sees in enumerate(columns):
            kinds.add(kind := mask.kind(row, column, sees))
            assert (kind in filled) == sees, (mask.NAMES[row], mask.NAMES[column])
    assert kinds == {name for group in mask.LEGEND.values() for name in group}


def test_the_day_names_the_steps_of_the_pipeline_in_order() -> None:
    """All but the report, which is written whatever comes of a day."""
    drawn = re.findall(
        r'class="number"[^>]*>(\d+)</text>\s*<text class="step"[^>]*>(\w+)<',
        (FOLDER / "day.svg").read_text(),
    )
    functions = [n for n in ast.parse(PIPELINE.read_text()).body if isinstance(n, ast.FunctionDef)]
    steps = [f.name for f in functions if "component" in map(ast.unparse, f.decorator_list)]
    assert [name for _, name in sorted(drawn, key=lambda step: int(step[0]))] == steps[:-1]
    assert steps[-1] == "report"


@pytest.mark.parametrize("name", LIMITS)
def test_a_picture_is_kept_small(name: str) -> None:
    assert 0 < (FOLDER / name).stat().st_size <= LIMITS[name]


def test_a_page_shows_each_picture_and_says_what_is_on_it() -> None:
    shown = {
        (page.parent / target).resolve()
        for page in hooks.pages(ROOT)
        for words, target in SHOWN.findall(page.read_text())
        if len(words.split()) > 3
    }
    assert {FOLDER / name for name in LIMITS} - shown == set()


def test_no_picture_lies_there_that_nobody_checks() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(LIMITS)


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_is_read_in_light_and_dark_and_aloud(name: str) -> None:
    drawing = (FOLDER / name).read_text()
    title = ElementTree.fromstring(drawing).find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert "prefers-color-scheme: dark" in drawing
    assert re.findall(r'(?:href|src)="', drawing) == []


def test_without_a_run_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no day's report: run make demo first$"):
        pictures.report_page(tmp_path)


def test_without_a_browser_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="is on PATH: install Chromium"):
        pictures.browser()


def test_a_report_is_cut_to_the_sections_that_are_shown(tmp_path: Path) -> None:
    names = ("Scores", "Ingest", "Quality on the day", "Calibration")
    sections = "".join(f"<h2>{name}</h2><p>of {name}</p>" for name in names)
    for day in ("2026-01-12", "2026-01-13"):
        (tmp_path / "runs" / day).mkdir(parents=True)
        (tmp_path / "runs" / day / "report.html").write_text(
            f"<html><head></head><body><h1>{day}</h1>{sections}</body></html>"
        )
    page = pictures.report_page(tmp_path)
    assert re.findall(r"<h[12]>(.*?)</h", page) == [
        "2026-01-13", "Quality on the day", "Calibration", "Scores",
    ]  # fmt: skip


def test_a_terminal_keeps_bold_and_spaces_and_escapes_html() -> None:
    page = pictures.as_html("\x1b[1mscore\x1b[0m  <3\n 1   \n")
    assert re.sub(r"<[^>]+>", "", page) == "score  &lt;3\n 1\n"
    assert "font-weight: bold" in page


def test_a_command_that_fails_says_why_and_one_that_hangs_is_stopped() -> None:
    with pytest.raises(ValueError, match=r"^sh failed: no such feed$"):
        pictures.run(["sh", "-c", "echo one >&2; echo no such feed >&2; exit 3"], 10)
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"^sleep had not ended after 1 seconds and was stopped$"):
        pictures.run(["sleep", "60"], 1)
    assert time.monotonic() - start < 20


@pytest.mark.skipif(
    not any(map(shutil.which, pictures.BROWSERS)),
    reason="no Chromium is on PATH",
)
def test_a_photograph_ends_under_its_content_and_keeps_its_colours(tmp_path: Path) -> None:
    page = (
        "<!doctype html><style>body { margin: 0; background: #fff }"
        "div { height: 50px; background: #b3372f }</style><div></div>"
    )
    pictures.photograph(page, (400, 600), tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        assert image.size == (400 * pictures.SCALE, (50 + 36) * pictures.SCALE)
        assert image.convert("RGB").getpixel((10, 10)) == (0xB3, 0x37, 0x2F)
    assert [path.name for path in tmp_path.iterdir()] == ["page.png"]
