# SPDX-License-Identifier: Apache-2.0
"""A file's digest is of its bytes, and is made again only where the file was written since."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from components.layout.stamps import Digests, file_digest, stamp


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Two files by name."""
    paths = {name: tmp_path / f"{name}.bin" for name in ("a", "b")}
    for name, path in paths.items():
        path.write_bytes(name.encode() * 3)
        os.utime(path, ns=(5, 7))
    return paths


def digests(tmp_path: Path) -> Digests:
    return Digests(tmp_path / "ledger" / "digests.json")


def test_a_stamp_is_the_time_and_the_size(files: dict[str, Path]) -> None:
    assert stamp(files["a"]) == (7, 3)


def test_a_digest_is_of_the_bytes(tmp_path: Path, files: dict[str, Path]) -> None:
    expected = {n: hashlib.sha256(n.encode() * 3).hexdigest()[:16] for n in files}
    assert digests(tmp_path).of(files) == expected
    assert file_digest(files["a"]) == expected["a"]


def test_a_file_is_read_again_only_where_it_was_written_since(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    first = digests(tmp_path).of(files)
    files["a"].write_bytes(b"xyz")
    os.utime(files["a"], ns=(5, 7))
    assert digests(tmp_path).of(files) == first, "of the same time and size: not looked at"
    os.utime(files["a"], ns=(5, 8))
    assert digests(tmp_path).of(files) == first | {"a": file_digest(files["a"])}
    files["b"].write_bytes(b"longer")
    os.utime(files["b"], ns=(5, 7))
    assert digests(tmp_path).of(files)["b"] == file_digest(files["b"]) != first["b"]


def test_what_is_kept_is_of_the_files_asked_for(tmp_path: Path, files: dict[str, Path]) -> None:
    digests(tmp_path).of(files)
    kept = tmp_path / "ledger" / "digests.json"
    assert json.loads(kept.read_text())["b"] == [7, 3, file_digest(files["b"])]
    written = kept.stat().st_ino
    digests(tmp_path).of(files)
    assert kept.stat().st_ino == written, "nothing new is not written"
    digests(tmp_path).of({"a": files["a"]})
    assert list(json.loads(kept.read_text())) == ["a"]


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 3}'])
def test_what_cannot_be_read_is_made_anew(
    tmp_path: Path, files: dict[str, Path], text: str
) -> None:
    first = digests(tmp_path).of(files)
    (tmp_path / "ledger" / "digests.json").write_text(text)
    assert digests(tmp_path).of(files) == first
