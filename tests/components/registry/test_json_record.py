# SPDX-License-Identifier: Apache-2.0
"""A JSON file as a value: what it holds comes back, and what is wrong with it is one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from components.registry.json_record import Record, read_value


class Note(Record):
    remedy = "write it anew"

    name: str
    size: int | float = 0
    folder: Path | None = None


@dataclass(frozen=True)
class Counts:
    read: int
    kept: int


def test_a_record_is_written_with_sorted_keys_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "made" / "note.json"
    Note(size=3, name="a").write(path)
    assert path.read_text() == '{\n  "folder": null,\n  "name": "a",\n  "size": 3\n}\n'
    assert Note.read(path) == Note(name="a", size=3)
    Note(size=3.0, name="a").write(path)
    assert '"size": 3.0' in path.read_text(), "a float stays one"
    assert [p.name for p in path.parent.iterdir()] == ["note.json"]


def test_a_record_is_plain_json_and_never_changed() -> None:
    note = Note(name="a", folder=Path("x/y"))
    assert note.plain() == {"name": "a", "size": 0, "folder": "x/y"}
    with pytest.raises(ValueError, match="frozen"):
        note.name = "b"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"size": 1}', "name: Field required"),
        ('{"name": 1}', "name: Input should be a valid string"),
        ('{"name": "a", "colour": 2}', "colour: Extra inputs are not permitted"),
        ('{"name": ', "Invalid JSON: "),
        ("", "Invalid JSON: "),
        ("\x00\xff", "Invalid JSON: "),
    ],
)
def test_a_damaged_file_is_told_with_the_first_fault_and_a_remedy(
    tmp_path: Path, text: str, why: str
) -> None:
    path = tmp_path / "note.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="is damaged") as told:
        Note.read(path)
    assert str(told.value).startswith(f"{path} is damaged: {why}")
    assert str(told.value).endswith("; write it anew")
    assert "\n" not in str(told.value)


def test_a_file_that_is_not_there_is_the_callers_to_tell(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Note.read(tmp_path / "note.json")


def test_other_types_are_read_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    path.write_text('[{"read": 3, "kept": 2}]')
    assert read_value(list[Counts], path, "") == [Counts(3, 2)]
    path.write_text('[{"read": 3}]')
    with pytest.raises(ValueError, match=r"is damaged: 0\.kept: Field required; bring it"):
        read_value(list[Counts], path, "bring it")
