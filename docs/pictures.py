# SPDX-License-Identifier: Apache-2.0
"""Photographs the ranked feed and the day's report for docs/pictures, with headless Chromium.

Run as `python docs/pictures.py`, after `make demo`. It knows the product by its doors alone: the
`feedsr` command, which starts the servers and stops them, and the files of a run. What is drawn
rather than photographed it leaves alone: mask.svg is docs/mask.py's, day.svg is drawn by hand.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

from PIL import Image, ImageChops
from rich.console import Console
from rich.text import Text

FOLDER = Path(__file__).resolve().parent / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_SECONDS = 60
RANK_SECONDS = 300
GRACE_SECONDS = 40
"""How long a process that is told to end may take to stop what it started."""
SCALE = 2
"""Pixels of a photograph for each pixel of the page."""
FLAT, COLOURS = 10, 48
"""How many colours a photograph keeps as they are, and in all: more cost bytes and show nothing."""

Counted = tuple[int, tuple[int, int, int]]
"""How many pixels have a colour, and the colour."""

REPORT_SIZE = (1424, 1400)
LEFT, RIGHT = ("Quality on the day",), ("Calibration", "Scores")
"""The report's sections that are shown, side by side under its head and its verdict."""
REPORT_STYLE = """<style>
body { max-width: none; padding: 36px 44px; font-family: Inter, "Liberation Sans", sans-serif; }
.parts { display: grid; grid-template-columns: 730px 550px; gap: 0 56px; align-items: start; }
.parts > div > h2:first-child { margin-top: 1.8rem; }
</style>
"""
FEED_SIZE = (704, 1400)
FEED = """<!doctype html>
<meta charset="utf-8">
<style>
body { margin: 0; background: #15181c; color: #dfe3e8; }
header { background: #262b32; padding: 13px 18px; display: flex; gap: 8px; }
i { width: 12px; height: 12px; border-radius: 50%; background: #ff6159; }
i + i { background: #ffbd2e; } i + i + i { background: #29c941; }
pre { margin: 24px 36px; font: 15px/1.42 "JetBrains Mono", "DejaVu Sans Mono", monospace; }
b { color: #62c48f; }
</style>
<header><i></i><i></i><i></i></header>
"""


def run(command: list[str], seconds: int, environment: Mapping[str, str] | None = None) -> str:
    """Runs a command to its end and returns what it printed.

    Raises:
        ValueError: it failed, in its own last line, or had not ended in time and was stopped.
    """
    name = Path(command[0]).name
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        printed, complaint = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{name} had not ended after {seconds} seconds and was stopped") from None
    finally:
        stop(process)
    if process.returncode != 0:
        said = complaint.strip().splitlines() or ["it does not say why"]
        raise ValueError(f"{name} failed: {said[-1]}")
    return printed


def stop(process: subprocess.Popen[str]) -> None:
    """Ends a process that has not ended: asked first, then with all of its session, by its id."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.communicate(timeout=GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def browser() -> str:
    """The path of the browser; ValueError where there is none."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    raise ValueError(
        f"no {', '.join(BROWSERS[:-1])} or {BROWSERS[-1]} is on PATH: install Chromium "
        "(on Debian: apt-get install chromium)"
    )


def photograph(page: str, size: tuple[int, int], picture: Path) -> None:
    """Photographs a page of HTML at a width, down to where its content ends, as a PNG.

    Args:
        page: the HTML; it loads nothing, and no network is there for it.
        size: the window's width, and a height that nothing on the page goes beyond.
    """
    with tempfile.TemporaryDirectory(prefix="feedsr-picture-") as folder:
        source, raw = Path(folder, "page.html"), Path(folder, "raw.png")
        source.write_text(page, encoding="utf-8")
        command = [
            browser(),
            "--headless",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
            f"--user-data-dir={folder}/profile",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--disable-background-networking",
            "--disable-gpu",
            "--disable-lcd-text",
            "--hide-scrollbars",
            "--no-first-run",
            f"--force-device-scale-factor={SCALE}",
            f"--window-size={size[0]},{size[1]}",
            f"--screenshot={raw}",
            source.as_uri(),
        ]
        run(command, BROWSER_SECONDS)
        if not raw.is_file():
            raise ValueError(f"{Path(command[0]).name} ended without a photograph")
        keep(raw, picture)


def keep(raw: Path, picture: Path, margin: int = 36 * SCALE) -> None:
    """Writes a photograph in few colours, cut a margin under its content, by rename."""
    with Image.open(raw) as image:
        whole = image.convert("RGB")
    ground = Image.new("RGB", whole.size, whole.getpixel((0, whole.height - 1)))
    content = ImageChops.difference(whole, ground).getbbox()
    bottom = min(content[3] + margin, whole.height) if content else whole.height
    small = few_colours(whole.crop((0, 0, whole.width, bottom)))
    beside = picture.with_suffix(".tmp")
    small.save(beside, format="PNG", optimize=True)
    beside.replace(picture)


def few_colours(image: Image.Image) -> Image.Image:
    """The image with a palette: the commonest colours exactly, and the reach of the rest."""
    counted = cast(list[Counted], image.getcolors(image.width * image.height))
    commonest = sorted(counted, reverse=True)[:FLAT]
    flat = [channel for _, colour in commonest for channel in colour]
    rest = image.quantize(COLOURS - FLAT, method=Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(flat + rest[: 3 * (COLOURS - FLAT)])
    return image.quantize(palette=palette, dither=Image.Dither.NONE)


def report_page(root: Path) -> str:
    """The head of the newest day's report and the sections that tell most, in two columns."""
    reports = sorted(root.glob("runs/*/report.html"))
    if not reports:
        raise ValueError(f"{root} holds no day's report: run make demo first")
    style, mark, body = reports[-1].read_text(encoding="utf-8").partition("</head>")
    head, *parts = re.split(r"(?=<h2>)", body)
    sections = {re.sub(r"<h2>(.*?)</h2>.*", r"\1", part, flags=re.DOTALL): part for part in parts}
    if missing := [name for name in (*LEFT, *RIGHT) if name not in sections]:
        raise ValueError(f"{reports[-1]} has no section {missing[0]!r}")
    columns = ["".join(sections[name] for name in names) for names in (LEFT, RIGHT)]
    shown = "".join(f"<div>{column}</div>" for column in columns)
    return f'{style}{REPORT_STYLE}{mark}{head}<div class="parts">{shown}</div>'


def feed_page(root: Path) -> str:
    """A terminal in which `feedsr rank` has just ranked a feed, by servers of its own."""
    command = Path(sys.executable).with_name("feedsr")
    if not command.is_file():
        raise ValueError(f"there is no feedsr beside {sys.executable}: run make setup first")
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "100"}
    environment = {**os.environ, **terminal, "FEEDSR_ROOT": str(root)}
    environment.pop("NO_COLOR", None)
    printed = run([str(command), "rank"], RANK_SECONDS, environment)
    return f"{FEED}<pre><b>$</b> feedsr rank\n{as_html(printed)}</pre>"


def as_html(printed: str) -> str:
    """What a terminal shows, as HTML: bold, italics and colours kept."""
    lines = [line.rstrip() for line in printed.splitlines()]
    record = Console(record=True, file=io.StringIO(), width=200, force_terminal=True)
    record.print(Text.from_ansi("\n".join(lines)), soft_wrap=True)
    return record.export_html(code_format="{code}", inline_styles=True)


def main() -> None:
    """Makes both photographs; what is missing ends it in one sentence."""
    parser = argparse.ArgumentParser(description="Photograph the feed and the report of a root.")
    default = os.environ.get("FEEDSR_ROOT") or "runs/demo"
    parser.add_argument("--root", type=Path, default=Path(default), help="default: %(default)s")
    root = parser.parse_args().root
    try:
        browser()
        photograph(report_page(root), REPORT_SIZE, FOLDER / "report.png")
        photograph(feed_page(root), FEED_SIZE, FOLDER / "feed.png")
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
