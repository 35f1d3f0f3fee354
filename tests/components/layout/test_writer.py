# SPDX-License-Identifier: Apache-2.0
"""A root has one writer: real processes that write, are refused, share a run, and are killed."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.layout.writer import LOCK, RUN, RUN_PID, writing
from tests.writer_builders import HOLD, STEP, holder, process, refused


def test_a_root_has_one_writer_by_any_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    root.mkdir()
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    with holder(tmp_path / "link"):
        for spelling in (root, Path("root"), tmp_path / "link", tmp_path / "other" / ".." / "root"):
            other.mkdir(exist_ok=True)
            with pytest.raises(ValueError, match="is being written to"), writing(spelling, "mine"):
                raise AssertionError
        with writing(other, "mine"):
            assert (other / LOCK).is_file()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None])
def test_a_writer_that_ends_in_any_way_lets_go(tmp_path: Path, end: int | None) -> None:
    with holder(tmp_path) as (child, _):
        if end is not None:
            child.send_signal(end)
        else:
            assert child.stdin is not None
            child.stdin.close()
        child.wait()
        with writing(tmp_path, "mine"):
            pass


def test_a_block_within_a_block_keeps_the_lock_to_the_end(tmp_path: Path) -> None:
    with writing(tmp_path, "import") as outer:
        with writing(tmp_path, "daily") as inner:
            assert inner == outer
        refused(tmp_path, f"import (process {os.getpid()} on ")
    with holder(tmp_path):
        pass


def test_processes_of_one_run_write_together_and_no_other(tmp_path: Path) -> None:
    with holder(tmp_path, "the loop") as (loop, run):
        with (
            holder(tmp_path, "training one", **{RUN: run}) as (first, _),
            holder(tmp_path, "training two", **{RUN: run}) as (second, _),
        ):
            refused(tmp_path, f"the loop (process {loop.pid} on ")
            refused(tmp_path, f"the loop (process {loop.pid} on ", **{RUN: "another"})
            loop.kill()
            loop.wait()
            refused(tmp_path, f"training one (process {first.pid} on ")
            first.kill()
            first.wait()
            refused(tmp_path, f"training two (process {second.pid} on ")
        with holder(tmp_path, "the next", **{RUN: "next"}) as (then, _):
            refused(tmp_path, f"the next (process {then.pid} on ", **{RUN: run})


def test_pods_of_one_run_take_the_lock_without_one_that_begins_it(tmp_path: Path) -> None:
    with holder(tmp_path, "pod one", **{RUN: "a"}), holder(tmp_path, "pod two", **{RUN: "a"}):
        refused(tmp_path, "pod one (process ", **{RUN: "b"})
    with writing(tmp_path, "mine"):
        refused(tmp_path, "mine (process ", **{RUN: "a"})


def test_processes_of_torchrun_are_one_run(tmp_path: Path) -> None:
    with (
        holder(tmp_path, "rank 0", TORCHELASTIC_RUN_ID="t"),
        holder(tmp_path, "rank 1", TORCHELASTIC_RUN_ID="t"),
    ):
        refused(tmp_path, "rank 0 (process ", TORCHELASTIC_RUN_ID="u")


def test_one_of_many_that_come_at_once_writes(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(RUN, raising=False)
        children = [
            subprocess.Popen(
                [sys.executable, "-c", HOLD, str(tmp_path), f"number {number}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(4)
        ]
    losers = 0
    end = time.monotonic() + 60
    while losers < 3 and time.monotonic() < end:
        losers = sum(child.poll() == 1 for child in children)
        time.sleep(0.05)
    winners = [child for child in children if child.poll() is None]
    for child in children:
        child.communicate("")
    assert losers == 3
    assert [child.returncode for child in winners] == [0]


@pytest.mark.parametrize("text", ["", "half {", "[]\n", '{"run": 1}\n', '"text"\n', "\0\0"])
def test_a_lock_that_names_nobody_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK).write_text(text)
    with (tmp_path / LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with (
            pytest.raises(ValueError, match="is being written to by another process; wait"),
            writing(tmp_path, "mine"),
        ):
            raise AssertionError
    with writing(tmp_path, "mine"):
        refused(tmp_path, f"mine (process {os.getpid()} on ")


def test_a_place_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="No locks available") as error, writing(tmp_path, "mine"):
        raise AssertionError
    assert error.value.filename == str(tmp_path / LOCK)


def test_a_step_ends_with_the_process_that_began_its_run(tmp_path: Path) -> None:
    with process("import time; print('run', flush=True); time.sleep(600)") as run:
        assert run.stdout is not None
        run.stdout.readline()
        with process(STEP, **{RUN_PID: str(run.pid)}) as step:
            assert step.stdout is not None
            assert step.stdout.readline() == "on\n"
            assert step.poll() is None
            run.kill()
            assert step.wait(30) == -signal.SIGKILL
        run.wait()
        with process(STEP, **{RUN_PID: str(run.pid)}) as late:
            assert late.wait(30) == -signal.SIGKILL, "its run is over already"
