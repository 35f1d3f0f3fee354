# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints are kept, found and cleared, at the first step, the last and between."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from components.training.checkpoints import (
    Checkpoint,
    clear_checkpoints,
    newest_checkpoint,
    save_checkpoint,
)


def save(folder: Path, step: int, inputs: str = "these") -> Path:
    tensors = {"w": torch.tensor([float(step), -1.0]), "n": torch.tensor(step)}
    state = {"rates": [0.1 * step], "points": [{"step": step}]}
    made = Checkpoint(step=step, inputs=inputs, model=tensors, optimizer={}, state=state)
    return save_checkpoint(folder, made)


def steps(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert save(tmp_path, 7) == tmp_path / "step-00000007"
    newest = newest_checkpoint(tmp_path, "these")
    assert newest is not None
    assert (newest.step, newest.inputs) == (7, "these")
    assert newest.model["w"].tolist() == [7, -1]
    assert newest.model["n"].tolist() == 7
    assert newest.optimizer == {}
    assert newest.state == {"rates": [0.1 * 7], "points": [{"step": 7}]}


def test_the_newest_two_are_kept_by_number_not_by_text(tmp_path: Path) -> None:
    for step, kept in ((1, [1]), (2, [1, 2]), (9, [2, 9]), (10, [9, 10]), (1_000_000, None)):
        save(tmp_path, step)
        wanted = kept or [10, 1_000_000]
        assert steps(tmp_path) == [f"step-{n:08d}" for n in wanted]
    newest = newest_checkpoint(tmp_path, "these")
    assert newest is not None
    assert newest.step == 1_000_000


def test_another_runs_checkpoint_is_passed_over_for_an_older_one_of_this_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 3)
    save(tmp_path, 4, inputs="those")
    with caplog.at_level(logging.WARNING, logger="feedsr.train"):
        newest = newest_checkpoint(tmp_path, "these")
    assert newest is not None
    assert newest.step == 3
    assert "step-00000004 is of a run with other inputs" in caplog.text
    assert newest_checkpoint(tmp_path, "neither") is None
    assert steps(tmp_path) == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize(
    ("through", "left"), [(None, []), (0, []), (4, [4]), (5, [4]), (6, [4, 6]), (9, [4, 6])]
)
def test_what_is_after_a_step_is_cleared_and_what_was_half_written(
    tmp_path: Path, through: int | None, left: list[int]
) -> None:
    folder = tmp_path / "checkpoints"
    for step in (4, 6):
        save(folder, step)
    (folder / ".step-00000007.new-x").mkdir()
    clear_checkpoints(folder, through)
    assert folder.exists() == bool(left)
    if left:
        assert steps(folder) == [f"step-{n:08d}" for n in left]


def test_a_folder_with_something_else_in_it_stays(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    save(folder, 1)
    (folder / "notes.txt").write_text("mine")
    clear_checkpoints(folder)
    assert steps(folder) == ["notes.txt"]


def test_a_folder_without_checkpoints_has_none_to_resume_or_to_clear(tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        assert newest_checkpoint(folder, "x") is None
        clear_checkpoints(folder)
    assert not tmp_path.exists()


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 1 MB; only root can mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small file system can only be mounted by root")
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_sentence_and_the_older_checkpoint_stays(small_disk: Path) -> None:
    def checkpoint(step: int, numbers: int) -> Checkpoint:
        tensors = {"w": torch.full((numbers,), float(step))}
        return Checkpoint(step=step, inputs="x", model=tensors, optimizer=tensors, state={})

    folder = small_disk / "checkpoints"
    save_checkpoint(folder, checkpoint(1, 50_000))
    with pytest.raises(ValueError, match=r"step-00000002.*No space left.*make room"):
        save_checkpoint(folder, checkpoint(2, 100_000))
    assert [p.name for p in folder.iterdir()] == ["step-00000001"]
    newest = newest_checkpoint(folder, "x")
    assert newest is not None
    assert (newest.step, newest.model["w"].unique().tolist()) == (1, [1.0])
