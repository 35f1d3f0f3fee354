# SPDX-License-Identifier: Apache-2.0
"""A log takes the place of another whole, or not at all."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from components.layout.paths import Layout
from components.layout.writer import LOCK
from components.log.sources.base import fresh_raw

DAYS = ("2026-01-05", "2026-01-06")


def write(layout: Layout, day: str, text: str) -> None:
    layout.raw_day(day).parent.mkdir(parents=True)
    layout.raw_day(day).write_text(text)


def files(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text()
        for path in root.rglob("*")
        if path.is_file() and path.name != LOCK
    }


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A root with an old log, and a file that no source owns."""
    layout = Layout.at(tmp_path)
    write(layout, DAYS[0], "old")
    (tmp_path / "posts.parquet").write_text("checked")
    return layout


def test_the_new_log_takes_the_place_of_the_old_one(layout: Layout) -> None:
    with fresh_raw(layout) as fresh:
        write(fresh, DAYS[1], "new")
        assert layout.raw_days() == [DAYS[0]], "nothing is replaced before the end"
    assert files(layout.root) == {
        f"raw/day={DAYS[1]}/impressions.parquet": "new",
        "posts.parquet": "checked",
    }
    assert sorted(p.name for p in layout.root.iterdir()) == [LOCK, "posts.parquet", "raw"]


def test_a_log_that_cannot_be_read_whole_replaces_nothing(layout: Layout) -> None:
    before = files(layout.root)
    with contextlib.suppress(KeyboardInterrupt), fresh_raw(layout) as fresh:
        write(fresh, DAYS[1], "half")
        raise KeyboardInterrupt
    assert files(layout.root) == before


def test_what_a_killed_import_left_is_not_mixed_in(layout: Layout) -> None:
    write(Layout(layout.root / ".raw"), DAYS[0], "left behind")
    with fresh_raw(layout) as fresh:
        write(fresh, DAYS[1], "new")
    assert layout.raw_days() == [DAYS[1]]
    assert not (layout.root / ".raw").exists()


def test_a_root_may_be_new(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path / "a" / "b")
    with fresh_raw(layout) as fresh:
        write(fresh, DAYS[0], "first")
    assert layout.raw_day(DAYS[0]).read_text() == "first"
