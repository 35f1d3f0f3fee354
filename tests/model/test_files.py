# SPDX-License-Identifier: Apache-2.0
"""A folder is written whole or not at all; tensors and their record come back from its bytes."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from model.files import (
    existing_folder,
    load_optimizer_tensors,
    optimizer_tensors,
    parse_tensors,
    read_bytes,
    tensor_bytes,
    write_folder,
)


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "model"
    write_folder(folder, {"weights": b"old", "extra": b""})
    write_folder(folder, {"weights": b"new"})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {"weights": b"new"}
    assert [p.name for p in folder.parent.iterdir()] == ["model"]
    assert folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("name", ["a*", "a?", "[ab]", "a[!x]"])
def test_what_a_neighbour_writes_is_left_alone(tmp_path: Path, name: str) -> None:
    """A name is no pattern: `[ab]` would clear away what is being written for `a`."""
    neighbours = [tmp_path / f".{other}.new-half" for other in ("a", "ab", "b", "a1")]
    for neighbour in neighbours:
        neighbour.mkdir()
    (tmp_path / f".{name}.new-left").mkdir()
    write_folder(tmp_path / name, {"weights": b"new"})
    assert (tmp_path / name / "weights").read_bytes() == b"new"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != name) == sorted(
        neighbour.name for neighbour in neighbours
    )


def test_a_failed_rename_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = tmp_path / "model", Path.rename
    write_folder(folder, {"weights": b"old"})

    def refuse(self: Path, target: Path) -> Path:
        if ".new-" in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ValueError, match="Input/output error"):
        write_folder(folder, {"weights": b"new"})
    monkeypatch.undo()
    assert (folder / "weights").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_was_moved_aside_is_still_there(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(ValueError, match=f"there is no model at {folder}; train one"):
        existing_folder(folder)
    aside = tmp_path / ".model.previous"
    aside.mkdir()
    assert existing_folder(folder) == aside
    folder.mkdir()
    assert existing_folder(folder) == folder


def test_tensors_come_back_with_their_record(tmp_path: Path) -> None:
    tensors = {
        "plain": torch.arange(6.0).view(2, 3),
        "turned": torch.arange(6.0).view(2, 3).T,
        "learned": torch.ones(2, dtype=torch.bfloat16, requires_grad=True),
    }
    got, record = parse_tensors(tensor_bytes(tensors, {"b": [1], "a": None}), tmp_path)
    assert record == {"a": None, "b": [1]}
    assert got.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(got[name], tensor)
        assert got[name].dtype == tensor.dtype


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 20, b"{}"])
def test_bytes_that_are_no_tensors_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ValueError, match=r"kept\.bin is not a safetensors file or is damaged"):
        parse_tensors(content, tmp_path / "kept.bin")


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*missing: No such file"):
        read_bytes(tmp_path / "missing")
    with pytest.raises(ValueError, match="Is a directory"):
        read_bytes(tmp_path)


def test_an_optimisers_state_is_flat_and_comes_back() -> None:
    def stepped(steps: int) -> torch.optim.Optimizer:
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.AdamW([weight], lr=0.1)
        for _ in range(steps):
            weight.grad = torch.tensor([1.0, 2.0, 3.0])
            optimizer.step()
        return optimizer

    kept = optimizer_tensors(stepped(2))
    assert sorted(kept) == ["0.exp_avg", "0.exp_avg_sq", "0.step"]
    fresh = stepped(0)
    load_optimizer_tensors(fresh, kept)
    for name, tensor in optimizer_tensors(fresh).items():
        assert torch.equal(tensor, kept[name]), name
