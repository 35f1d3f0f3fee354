# SPDX-License-Identifier: Apache-2.0
"""A run that was stopped, or whose disk was full, ends where the run that was not stopped ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

import model.files
from components.training import checkpoints, trainer
from components.training import run as module
from tests.training_builders import (
    SMALL,
    assert_equal,
    distance,
    fitted,
    weights,
    written_shards,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_shards(tmp_path_factory.mktemp("shards"))


class _StopError(Exception):
    pass


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Lets so many checkpoints be written, then stops the run."""
    count = 0

    def save(folder: Path, checkpoint: checkpoints.Checkpoint) -> Path:
        nonlocal count
        path = checkpoints.save_checkpoint(folder, checkpoint)
        count += 1
        if count == after:
            raise _StopError
        return path

    monkeypatch.setattr(trainer, "save_checkpoint", save)


@pytest.fixture
def interrupted(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, dict[str, Tensor], dict]:
    """A run stopped after its third checkpoint, and what the whole run gives."""
    record = fitted(shards, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, after=3)
        with pytest.raises(_StopError):
            fitted(shards, tmp_path / "m")
    return tmp_path / "m", weights(tmp_path / "whole"), record


def test_a_run_resumes_to_the_same_weights(shards: Path, interrupted, caplog) -> None:
    out, expected, record = interrupted
    folder = out.parent / "checkpoints" / "m"
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000006", "step-00000009"]
    names = sorted(p.name for p in (folder / "step-00000009").iterdir())
    assert names == ["model.safetensors", "optimizer.safetensors", "state.json"]
    (folder / ".step-00000012.new-x").mkdir()
    with caplog.at_level("INFO", logger="feedsr.train"):
        assert fitted(shards, out) == record
    assert "resuming at step 9 of 10" in caplog.text
    assert_equal(weights(out), expected)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    shards: Path, interrupted, caplog, name: str, harm: str
) -> None:
    out, expected, record = interrupted
    path = out.parent / "checkpoints" / "m" / "step-00000009" / name
    content = bytearray(path.read_bytes())
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 3] ^= 0xFF
        path.write_bytes(content)
    with caplog.at_level("INFO", logger="feedsr.train"):
        assert fitted(shards, out) == record
    assert "step-00000009 is damaged" in caplog.text
    assert "resuming at step 6 of 10" in caplog.text
    assert_equal(weights(out), expected)


def test_a_number_changed_in_the_state_is_damage_too(shards: Path, interrupted, caplog) -> None:
    out, expected, _ = interrupted
    path = out.parent / "checkpoints" / "m" / "step-00000009" / "state.json"
    path.write_text(path.read_text().replace('"step": 9, "inputs"', '"step": 8, "inputs"'))
    with caplog.at_level("INFO", logger="feedsr.train"):
        fitted(shards, out)
    assert "step-00000009 is damaged" in caplog.text
    assert_equal(weights(out), expected)


def test_killed_after_the_model_was_whole_its_checkpoints_go_with_the_next_call(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(folder: Path) -> None:
        raise _StopError

    with monkeypatch.context() as patch:
        patch.setattr(module, "clear_checkpoints", stop)
        with pytest.raises(_StopError):
            fitted(shards, tmp_path / "m")
    folder = tmp_path / "checkpoints" / "m"
    assert folder.is_dir()
    written = (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns
    fitted(shards, tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns == written
    assert not folder.exists()


def test_another_runs_checkpoints_are_not_resumed(shards: Path, interrupted, caplog) -> None:
    out, expected, _ = interrupted
    other = SMALL.model_copy(update={"seed": 5})
    fitted(shards, out, config=other)
    assert "run with other inputs" in caplog.text
    fitted(shards, out.parent / "fresh", config=other)
    assert_equal(weights(out), weights(out.parent / "fresh"))
    assert distance(weights(out), expected) > 1e-3


def test_a_full_disk_in_a_run_keeps_what_it_resumes_from(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no small disk can be mounted: the third write of weights fails as on a full one."""
    fitted(shards, tmp_path / "whole")
    plain, written = model.files._write, []

    def write(path: Path, content: bytes) -> None:
        written.append(path.name)
        if written.count("optimizer.safetensors") == 3:
            plain(path, content[:100])
            raise OSError(28, "No space left on device")
        plain(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(model.files, "_write", write)
        with pytest.raises(ValueError, match=r"No space left on device.*make room"):
            fitted(shards, tmp_path / "m")
    folder = tmp_path / "checkpoints" / "m"
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000003", "step-00000006"]
    fitted(shards, tmp_path / "m")
    assert_equal(weights(tmp_path / "m"), weights(tmp_path / "whole"))
