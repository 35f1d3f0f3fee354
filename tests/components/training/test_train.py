# SPDX-License-Identifier: Apache-2.0
"""Training learns, repeats itself, survives a kill, and says in one sentence what is wrong."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from components.config import TrainConfig
from components.layout.paths import Layout
from components.training import checkpoints
from components.training.data import shard_format
from components.training.distributed import Group
from components.training.train import _open as open_training
from components.training.train import fit, main, train
from feature_repo.specs import KUAIRAND
from kernels.loader import inspect_shard
from model import DCNv2Config, build_ranker
from model.checkpoint import load_model
from tests.shard_builders import random_lengths, write_shards
from tests.training_builders import (
    DAY,
    NOISY,
    SMALL,
    STILL,
    assert_equal,
    daily_config,
    distance,
    environment,
    prepared,
    weights,
    written_shards,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_shards(tmp_path_factory.mktemp("shards"))


def fitted(shards: Path, out: Path, ranker=NOISY, config: TrainConfig = SMALL, start=None) -> dict:
    return fit(shards, out, ranker, KUAIRAND, config, "day", start)


@pytest.mark.parametrize("ranker", [NOISY, DCNv2Config()], ids=["feed_sr", "dcnv2"])
def test_training_learns_and_says_how(shards: Path, tmp_path: Path, ranker) -> None:
    config = SMALL.model_copy(update={"epochs": 4, "learning_rate": 1e-2})
    record = fitted(shards, tmp_path / "m", ranker, config)
    curve = record["curve"]
    assert [p["step"] for p in curve] == list(range(1, record["steps"] + 1))
    assert set(curve[0]["tasks"]) == set(KUAIRAND.task_names)
    first, last = (sum(p["loss"] for p in part) / 5 for part in (curve[:5], curve[-5:]))
    assert last < first - 0.05
    rates = [p["lr"] for p in curve]
    assert max(rates) == pytest.approx(1e-2, rel=0.02)
    assert 0 < rates[-1] < rates[0] < max(rates)
    assert record["targets"] > 0
    model, kept = load_model(tmp_path / "m", KUAIRAND)
    assert kept == record
    assert kept["freshness"] == "day"
    assert not (tmp_path / "checkpoints" / "m").exists()
    assert model.config == ranker


def test_the_same_inputs_give_the_same_weights_bit_for_bit(shards: Path, tmp_path: Path) -> None:
    generator = torch.random.get_rng_state()
    fitted(shards, tmp_path / "a")
    assert torch.equal(generator, torch.random.get_rng_state())
    fitted(shards, tmp_path / "b")
    assert_equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    fitted(shards, tmp_path / "c", config=SMALL.model_copy(update={"seed": 1}))
    assert distance(weights(tmp_path / "a"), weights(tmp_path / "c")) > 1e-3


def test_the_cut_into_micro_batches_does_not_matter(shards: Path, tmp_path: Path) -> None:
    fitted(shards, tmp_path / "whole", STILL, SMALL.model_copy(update={"micro_batch": 32}))
    fitted(shards, tmp_path / "cut", STILL, SMALL.model_copy(update={"micro_batch": 5}))
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert distance(whole, cut) < 1e-4
    start = build_ranker(STILL, KUAIRAND, 0).state_dict()
    assert distance(whole, start) > 1e-2


@pytest.mark.law
def test_a_finished_run_returns_at_once_and_another_one_does_not(
    shards: Path, tmp_path: Path
) -> None:
    record = fitted(shards, tmp_path / "m")
    written = (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns
    assert fitted(shards, tmp_path / "m") == record
    assert (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns == written
    other = SMALL.model_copy(update={"learning_rate": 1e-4})
    assert fitted(shards, tmp_path / "m", config=other)["inputs"] != record["inputs"]
    assert (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns > written


@pytest.mark.law
def test_shards_of_the_same_size_with_other_contents_are_another_run(
    shards: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    record = fitted(folder, tmp_path / "m")
    path = folder / "part-00000.arrow"
    size, table = path.stat().st_size, pa.ipc.open_file(str(path)).read_all()
    place = table.schema.get_field_index("click")
    labels = table.column("click").to_pylist()
    labels[0][0] = 1 - labels[0][0]
    column = pa.array(labels, table.column("click").type)
    changed = table.set_column(place, "click", column).replace_schema_metadata(
        table.schema.metadata
    )
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_file(str(path), changed.schema, options=options) as writer:
        writer.write_table(changed, max_chunksize=256)
    assert path.stat().st_size == size
    assert fitted(folder, tmp_path / "m")["inputs"] != record["inputs"]


def test_a_finished_run_of_a_spec_of_ones_own_returns_at_once(tmp_path: Path) -> None:
    spec = dataclasses.replace(KUAIRAND, name="mine")
    write_shards(tmp_path / "shards", spec, random_lengths(20))
    fit(tmp_path / "shards", tmp_path / "m", STILL, spec, SMALL, "day")
    written = (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns
    fit(tmp_path / "shards", tmp_path / "m", STILL, spec, SMALL, "day")
    assert (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns == written


def test_warm_starts_from_yesterdays_weights(shards: Path, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"epochs": 3, "learning_rate": 1e-2})
    cold = fitted(shards, tmp_path / "cold", config=config)
    gentle = SMALL.model_copy(update={"learning_rate": 1e-6})
    warm = fitted(shards, tmp_path / "warm", config=gentle, start=tmp_path / "cold")
    assert warm["curve"][0]["loss"] < cold["curve"][0]["loss"] - 0.05
    assert distance(weights(tmp_path / "cold"), weights(tmp_path / "warm")) < 1e-4
    with pytest.raises(ValueError, match="another configuration"):
        fitted(shards, tmp_path / "x", STILL, start=tmp_path / "cold")
    with pytest.raises(ValueError, match="no model at"):
        fitted(shards, tmp_path / "x", start=tmp_path / "nowhere")


def test_the_train_step_reads_and_writes_where_the_layout_says(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    write_shards(layout.sequences("train", DAY), KUAIRAND, random_lengths(64))
    config = daily_config(SMALL)
    record = train(layout, DAY, config, "feed_sr")
    assert load_model(layout.model(DAY, "feed_sr"))[1] == record
    start = layout.model(DAY, "feed_sr")
    other = Layout.at(tmp_path / "other")
    shutil.copytree(layout.sequences("train", DAY), other.sequences("train", DAY))
    assert train(other, DAY, config, "feed_sr", start)["inputs"]["start"] is not None


@pytest.mark.parametrize("freshness", ["day", "30m", "immediate"])
def test_slots_are_traded_only_where_feedback_is_immediate(tmp_path: Path, freshness) -> None:
    write_shards(tmp_path, KUAIRAND, [8] * 4, shards=1, freshness=freshness)
    group = Group(rank=0, world=1, device=torch.device("cpu"))
    loader = open_training(tmp_path, KUAIRAND, SMALL, freshness, group)
    assert loader.config.session_shuffle
    assert loader.config.trade_slots == (freshness == "immediate")


# --- a run that is interrupted


class _StopError(Exception):
    pass


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Lets so many checkpoints be written, then stops the run."""
    from components.training import trainer

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
    from components.training import train as step

    def stop(folder: Path) -> None:
        raise _StopError

    with monkeypatch.context() as patch:
        patch.setattr(step, "clear_checkpoints", stop)
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
    def checkpoint(step: int, numbers: int) -> checkpoints.Checkpoint:
        tensors = {"w": torch.full((numbers,), float(step))}
        return checkpoints.Checkpoint(
            step=step, inputs="x", model=tensors, optimizer=tensors, state={}
        )

    folder = small_disk / "checkpoints"
    checkpoints.save_checkpoint(folder, checkpoint(1, 50_000))
    with pytest.raises(ValueError, match=r"step-00000002.*No space left.*make room"):
        checkpoints.save_checkpoint(folder, checkpoint(2, 100_000))
    assert [p.name for p in folder.iterdir()] == ["step-00000001"]
    found = checkpoints.newest_checkpoint(folder, "x")
    assert found is not None
    assert (found.step, found.model["w"].unique().tolist()) == (1, [1.0])


def test_a_full_disk_in_a_run_keeps_what_it_resumes_from(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no small disk can be mounted: the third write of weights fails as on a full one."""
    import model.files

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


# --- mistakes


def test_a_loss_that_is_not_finite_stops_the_run(shards: Path, tmp_path: Path) -> None:
    wild = SMALL.model_copy(update={"learning_rate": 1e38})
    with pytest.raises(ValueError, match=r"stopped at step \d+ of 10: the loss is.*learning rate"):
        fitted(shards, tmp_path / "m", config=wild)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_a_seed_that_no_generator_takes_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=r"seed\n.*Input should be"):
        TrainConfig(seed=seed)


def test_shards_without_a_target_are_refused(tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path / "shards", KUAIRAND, [1, 1], shards=1)
    assert inspect_shard(path, shard_format(KUAIRAND)).auxiliary == 2
    with pytest.raises(ValueError, match="hold no impression to train on"):
        fitted(tmp_path / "shards", tmp_path / "m")


# --- processes


@pytest.mark.law
@pytest.mark.parametrize("teachers", [0, 1])
def test_killed_in_training_the_same_command_ends_at_the_same_weights(
    shards: Path, tmp_path: Path, teachers: int
) -> None:
    config = daily_config(SMALL.model_copy(update={"epochs": 3, "teachers": teachers}))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    prepared(whole, shards, config)
    train(Layout.at(whole), DAY, config, "feed_sr")
    command = [sys.executable, "-m", "components.training.train", *prepared(killed, shards, config)]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    folder = Layout.at(killed).checkpoints(DAY, "feed_sr")
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if any(folder.glob("step-*")):
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    assert process.wait(10) == -signal.SIGKILL, process.stderr and process.stderr.read()
    assert not Layout.at(killed).model(DAY, "feed_sr").exists()
    again = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert "resuming at step" in again.stderr
    ours, theirs = (Layout.at(r).model(DAY, "feed_sr") for r in (killed, whole))
    assert_equal(weights(ours), weights(theirs))
    assert (ours / "config.json").read_bytes() == (theirs / "config.json").read_bytes()
    assert not list(killed.rglob("teachers/feed_sr"))


def test_the_command_says_a_mistake_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for ranker, sentence in (("feed_sr", "there are no shards in"), ("svd", "there is no ranker")):
        with pytest.raises(SystemExit) as stop:
            main(root=tmp_path, day=DAY, config="kuairand", ranker=ranker)
        assert stop.value.code == 1
        said = capsys.readouterr().err.strip()
        assert said.startswith(f"error: {sentence}")
        assert len(said.splitlines()) == 1
