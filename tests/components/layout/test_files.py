# SPDX-License-Identifier: Apache-2.0
"""A file is whole or not there, stays where nothing changed, and is named by its bytes."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.layout.files import (
    atomic_path,
    check_writable,
    digest,
    fingerprint,
    parquet_writer,
    write_json,
    write_parquet,
)


def write_half(path: Path) -> None:
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.startswith(f".{path.name}.")
        temporary.write_text("half")
        raise KeyboardInterrupt


def write_part(path: Path, table: pa.Table) -> None:
    with parquet_writer(path, table.schema) as writer:
        writer.write_table(table)
        raise KeyboardInterrupt


def test_a_table_in_parts_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """Of one part, it holds the bytes of a table that is written at once."""
    path, table = tmp_path / "new" / "part.parquet", pa.table({"id": [3, 1, 2]})
    with pytest.raises(KeyboardInterrupt):
        write_part(path, table)
    assert [*path.parent.iterdir()] == []
    for parts in ([table], [table.slice(0, 2), table.slice(2)], []):
        with parquet_writer(path, table.schema) as writer:
            for part in parts:
                writer.write_table(part)
        written = pq.ParquetFile(path)
        assert written.num_row_groups == len(parts)
        assert written.read().equals(table.slice(0, 3 if parts else 0))
        if len(parts) == 1:
            write_parquet(tmp_path / "at_once.parquet", table)
            assert (tmp_path / "at_once.parquet").read_bytes() == path.read_bytes()


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


def test_the_same_bytes_written_again_leave_the_files_time(tmp_path: Path) -> None:
    """What was made from it need not be made again; other bytes are another file."""
    path = tmp_path / "file"
    for text, stays in (("one", False), ("one", True), ("two", False)):
        if path.exists():
            os.utime(path, ns=(5, 5))
        with atomic_path(path) as temporary:
            temporary.write_text(text)
        assert (path.stat().st_mtime_ns == 5) is stays
        assert path.read_text() == text


def test_a_digest_is_the_head_of_sha_256() -> None:
    assert digest("é") == digest("é".encode()) == hashlib.sha256("é".encode()).hexdigest()[:16]
    assert digest(b"x", 5) == digest(b"x")[:5]
    assert digest("", 64) == hashlib.sha256().hexdigest()


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(JSON, JSON)
def test_a_fingerprint_tells_values_apart_and_no_orders(left: Any, right: Any) -> None:
    """As far as JSON does: what is read back from it has the same one."""
    assert fingerprint(json.loads(json.dumps(left))) == fingerprint(left)
    same = json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
    assert (fingerprint(left) == fingerprint(right)) is same
    if isinstance(left, dict):
        assert fingerprint(dict(reversed(left.items()))) == fingerprint(left)
