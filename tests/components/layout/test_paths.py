# SPDX-License-Identifier: Apache-2.0
"""Where every file of a run lies, and what a path that a person wrote stands for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.layout.paths import Layout, absolute, path_without

DAY = "2026-01-05"


def test_every_path_is_where_it_was(tmp_path: Path) -> None:
    """Roots of an earlier release are read by the next one."""
    layout = Layout.at(tmp_path)
    places = {
        layout.raw_day(DAY): "raw/day=2026-01-05/impressions.parquet",
        layout.raw_posts: "raw/posts.parquet",
        layout.raw_members: "raw/members.parquet",
        layout.impressions_day(DAY): "impressions/day=2026-01-05/part.parquet",
        layout.quarantine_day(DAY): "quarantine/day=2026-01-05/part.parquet",
        layout.ingest_counts(DAY): "ingest/day=2026-01-05.json",
        layout.posts: "posts.parquet",
        layout.members: "members.parquet",
        layout.feature_dir("affinity"): "features/affinity",
        layout.feature_day("affinity", DAY): "features/affinity/day=2026-01-05.parquet",
        layout.feast: "feast",
        layout.sequences("train", DAY): "sequences/train-2026-01-05",
        layout.run(DAY): "runs/2026-01-05",
        layout.checkpoints(DAY, "dcnv2"): "runs/2026-01-05/checkpoints/dcnv2",
        layout.model(DAY, "dcnv2"): "runs/2026-01-05/dcnv2",
        layout.registry: "registry",
        layout.requests_day(DAY): "requests/day=2026-01-05",
    }
    assert {str(path.relative_to(tmp_path)): place for path, place in places.items()} == {
        place: place for place in places.values()
    }
    assert list(tmp_path.iterdir()) == [], "a path makes nothing"


def test_days_are_those_that_have_a_file_in_order(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    assert layout.raw_days() == layout.impression_days() == []
    for day in ("2026-01-07", "2025-12-31", "2026-01-05"):
        for path in (layout.raw_day(day), layout.impressions_day(f"1{day[1:]}")):
            path.parent.mkdir(parents=True)
            path.touch()
    layout.raw_day("2026-01-06").parent.mkdir()
    assert layout.raw_days() == ["2025-12-31", "2026-01-05", "2026-01-07"]
    assert layout.impression_days() == ["1025-12-31", "1026-01-05", "1026-01-07"]


def test_a_path_with_what_a_reader_would_take_for_its_own_has_a_link(tmp_path: Path) -> None:
    odd, plain = tmp_path / "a {{b}}", tmp_path / "a {b}"
    odd.mkdir()
    (odd / "file").write_text("here")
    with path_without("{{", str(plain)) as path:
        assert path == str(plain)
    with path_without("{{", str(odd)) as path:
        assert "{{" not in path
        assert (Path(path) / "file").read_text() == "here"
        assert Layout.at(path).root == odd
    assert not Path(path).is_symlink()
    assert (odd / "file").is_file()


def test_a_name_that_begins_with_a_tilde_is_a_users_home_or_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "mine"))
    assert absolute("~/runs") == tmp_path / "mine" / "runs"
    assert absolute("~nobody that there is/x") == tmp_path / "~nobody that there is" / "x"
    assert absolute(Path("a") / ".." / "b") == tmp_path / "b"


def test_a_root_is_absolute_and_its_name_is_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Layout.at("runs/../mine").root == tmp_path / "mine"
    with pytest.raises(ValueError, match=r"is no UTF-8 text, and Feast's registry .* choose"):
        Layout.at(tmp_path / os.fsdecode(b"runs-\xff"))
