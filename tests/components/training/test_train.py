# SPDX-License-Identifier: Apache-2.0
"""The step trains a day's ranker, and its teachers first; killed, it ends at the same weights."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from components.config import PROFILES
from components.layout.paths import Layout
from components.training import run as module
from components.training.train import fit, main, teacher_configs, train
from feature_repo.specs import KUAIRAND
from model import DCNv2Config
from model.checkpoint import load_model
from tests.shard_builders import random_lengths, write_shards
from tests.training_builders import (
    DAY,
    NOISY,
    SMALL,
    assert_equal,
    daily_config,
    distance,
    environment,
    fitted,
    prepared,
    training_run,
    weights,
    written_shards,
)

TAUGHT = SMALL.model_copy(update={"teachers": 2})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_shards(tmp_path_factory.mktemp("shards"))


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


def test_the_daily_loop_trains_its_own_rankers_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no ranker 'ligr'; have feed_sr, dcnv2$"):
        train(Layout.at(tmp_path), "2026-01-05", PROFILES["demo"], "ligr")


# --- teachers


def test_a_run_trains_its_teachers_with_the_next_seeds_and_clears_them(
    shards: Path, tmp_path: Path
) -> None:
    teachers = [tmp_path / f"t{seed}" for seed in (1, 2)]
    for folder, seed in zip(teachers, (1, 2), strict=True):
        fitted(shards, folder, config=SMALL.model_copy(update={"seed": seed}))
    given = training_run(shards, tmp_path / "given", config=TAUGHT, teachers=tuple(teachers))
    assert fit(given) == fit(training_run(shards, tmp_path / "own", config=TAUGHT))
    fitted(shards, tmp_path / "plain")
    own = weights(tmp_path / "own")
    assert_equal(own, weights(given.out))
    assert distance(own, weights(tmp_path / "plain")) > 1e-3
    assert not (tmp_path / "teachers" / "own").exists()
    assert all((folder / "config.json").is_file() for folder in teachers)


def test_a_finished_run_trains_no_teacher_again(shards: Path, tmp_path: Path) -> None:
    run = training_run(shards, tmp_path / "m", config=TAUGHT)
    record = fit(run)
    written = (run.out / "model.safetensors").stat().st_mtime_ns
    left = tmp_path / "teachers" / "m" / "seed-1"
    left.mkdir(parents=True)  # as by a run killed after its model was whole
    assert run.finished() == fit(run) == record
    assert (run.out / "model.safetensors").stat().st_mtime_ns == written
    assert not left.exists()
    other = TAUGHT.model_copy(update={"teachers": 1})
    assert training_run(shards, run.out, config=other).finished() is None


def test_a_teacher_has_the_next_seed_and_no_teacher() -> None:
    assert [(c.seed, c.teachers) for c in teacher_configs(TAUGHT)] == [(1, 0), (2, 0)]
    third = TAUGHT.model_copy(update={"seed": 3})
    assert teacher_configs(third)[1] == SMALL.model_copy(update={"seed": 5})
    assert teacher_configs(SMALL) == []


@pytest.mark.parametrize("ranker", [NOISY, DCNv2Config()], ids=["feed_sr", "dcnv2"])
def test_a_training_set_that_is_untimed_throughout_says_what_is_there(
    tmp_path: Path, ranker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a teacher or a step is trained."""
    write_shards(tmp_path / "shards", KUAIRAND, [1, 1, 1], shards=1)
    monkeypatch.setattr(module, "Trainer", None)
    run = training_run(tmp_path / "shards", tmp_path / "m", ranker=ranker, config=TAUGHT)
    with pytest.raises(
        ValueError, match=r"to train on: of 3, 3 are new, all of them untimed"
    ) as said:
        fit(run)
    assert len(str(said.value).splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shards"]


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
