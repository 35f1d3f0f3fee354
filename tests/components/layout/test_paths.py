# SPDX-License-Identifier: Apache-2.0
"""Where every file of a run lies, and that a file is whole or not there."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.layout.files import atomic_path, check_writable, write_json, write_parquet
from components.layout.paths import Layout, absolute, path_without

DAY = "2026-01-05"


def test_every_path_is_where_it_was(tmp_path: Path) -> None:
    """Roots of an earlier release are read by the next one."""
    layout = Layout.at(tmp_path)
    found = {
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
    assert {str(path.relative_to(tmp_path)): place for path, place in found.items()} == {
        place: place for place in found.values()
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


def write_half(path: Path) -> None:
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.startswith(f".{path.name}.")
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "counts.json"
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert list(path.parent.iterdir()) == []
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == ["counts.json"]
    assert path.read_text() == "whole"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_file_of_the_same_length_and_time_with_other_bytes_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    os.utime(path, ns=(5, 5))
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"two")
        os.utime(temporary, ns=(5, 5))
    assert path.read_bytes() == b"two"


def test_a_folder_in_the_place_of_a_file_stays(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError), atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_json_is_for_people_and_the_same_for_the_same_values(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": "é"})
    text = (tmp_path / "a.json").read_text()
    assert text == '{\n  "a": "\\u00e9",\n  "b": [\n    1,\n    2.5\n  ]\n}\n'
    assert json.loads(text) == {"b": [1, 2.5], "a": "é"}


def test_a_table_is_written_with_zstd(tmp_path: Path) -> None:
    table = pa.table({"member_id": [3, 1, 2]})
    write_parquet(tmp_path / "sub" / "t.parquet", table)
    assert pq.read_table(tmp_path / "sub" / "t.parquet") == table
    described = pq.ParquetFile(tmp_path / "sub" / "t.parquet").metadata
    assert described.row_group(0).column(0).compression == "ZSTD"


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "sub" / "folder" / "result.json")
    check_writable(tmp_path / "sub" / "folder" / "result.json")
    assert list((tmp_path / "sub" / "folder").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"exists|directory"):
        check_writable(tmp_path / "file" / "result.json")


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


def test_the_same_bytes_written_again_leave_nothing_beside_them(tmp_path: Path) -> None:
    for _ in range(2):
        with atomic_path(tmp_path / "file") as temporary:
            temporary.write_text("the same")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux lists open files there")
def test_no_file_stays_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(20):
        with atomic_path(tmp_path / str(number)) as temporary:
            temporary.write_text("x")
    assert len(list(Path("/proc/self/fd").iterdir())) < before + 10


def test_a_name_that_begins_with_a_tilde_is_a_users_home_or_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "mine"))
    assert absolute("~/runs") == tmp_path / "mine" / "runs"
    assert absolute("~nobody that there is/x") == tmp_path / "~nobody that there is" / "x"
    assert absolute(Path("a") / ".." / "b") == tmp_path / "b"
