# SPDX-License-Identifier: Apache-2.0
"""A root has one writer: real processes that write, are refused, share a run, and are killed."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.cli.main import app
from components.layout.paths import Layout
from components.layout.writer import LOCK, RUN, RUN_PID, writing
from components.log.sources.base import fresh_raw
from components.loop.daily import daily
from components.loop.steps import ORDER, run_step
from tests.loop_builders import tiny_config, tiny_log, write_config

HOLD = """
import sys
from pathlib import Path
from components.layout.writer import writing
with writing(Path(sys.argv[1]), sys.argv[2]) as run:
    print("held", run["FEEDSR_RUN"], flush=True)
    sys.stdin.read()
"""
STEP = """
import sys, time
from components.layout.writer import follow_run
follow_run()
print("on", flush=True)
time.sleep(600)
"""
DAY = "2026-01-05"


@contextmanager
def process(code: str, *words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process of its own that has said its first line; killed at the end."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            assert pipe is not None
            pipe.close()


@contextmanager
def holder(root: Path, command: str = "feedsr daily of 2026-01-04", **environment: str):  # type: ignore[no-untyped-def]
    """A process that writes into a root, and the id of its run."""
    with process(HOLD, str(root), command, **environment) as child:
        assert child.stdout is not None
        said = child.stdout.readline().split()
        assert said[:1] == ["held"], child.stderr.read() if child.stderr else ""
        yield child, said[1]


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a root but the lock, by path: when it was written, and its bytes."""
    return {
        str(p.relative_to(root)): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"")
        for p in root.rglob("*")
        if p.name != LOCK
    }


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A root with a log of three days."""
    return tiny_log(tmp_path_factory.mktemp("writer") / "root", days=3)


@pytest.fixture(scope="module")
def held(log: Layout) -> Iterator[tuple[Layout, int]]:
    """The same while another process writes into it, and that process."""
    log.registry.mkdir()
    with holder(log.root) as (child, _):
        yield log, child.pid


def commands(layout: Layout) -> dict[str, list[str]]:
    """Every command that writes into a root."""
    day = ["--day", layout.raw_days()[-1]]
    steps = {step: [*step.split("-")[:1], *day] for step in ORDER if step not in ("report",)}
    return {
        **{name: words for name, words in steps.items() if name != "promote"},
        "simulate": ["simulate", "--days", "2", "--members", "9"],
        "import": ["import", str(layout.root.parent / "own")],
        "daily": ["daily", *day],
        "promote": ["promote", "v1"],
        "rollback": ["rollback"],
        "prune": ["versions", "--prune", "1"],
    }


def test_every_command_that_writes_is_refused_and_changes_nothing(
    held: tuple[Layout, int],
) -> None:
    layout, pid = held
    own = layout.root.parent / "own"
    own.mkdir()
    for name in ("impressions", "posts", "members"):
        (own / f"{name}.parquet").touch()
    before = tree(layout.root)
    told = (
        f"{layout.root} is being written to by feedsr daily of 2026-01-04 (process {pid} on "
        f"{socket.gethostname()}, since 20"
    )
    for name, words in commands(layout).items():
        config = ["--config", "demo"] if name not in ("promote", "rollback", "prune") else []
        found = CliRunner().invoke(app, [*words, "--root", str(layout.root), *config])
        assert found.exit_code == 1, name
        assert isinstance(found.exception, ValueError), (name, found.exception)
        assert str(found.exception).startswith(told), name
        assert "wait until it ends, or stop it" in str(found.exception)
        assert tree(layout.root) == before, name


def test_the_refused_one_ends_with_one_sentence_and_a_status(held: tuple[Layout, int]) -> None:
    layout, pid = held
    command = [sys.executable, "-c", "from components.cli.main import main; main()"]
    words = ["ingest", "--root", str(layout.root), "--config", "demo"]
    found = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stdout == ""
    assert re.fullmatch(
        rf"feedsr: \S+ is being written to by .*process {pid} on .*\n", found.stderr
    )


def test_functions_that_write_are_refused_as_well(held: tuple[Layout, int]) -> None:
    layout, _ = held
    before = tree(layout.root)
    with pytest.raises(ValueError, match="is being written to by"):
        run_step("ingest", str(layout.root), layout.raw_days()[-1], "demo")
    with pytest.raises(ValueError, match="is being written to by"), fresh_raw(layout):
        raise AssertionError
    with pytest.raises(ValueError, match="is being written to by"):
        daily(layout, layout.raw_days()[-1], "demo")
    assert tree(layout.root) == before


def test_readers_are_not_held_up(held: tuple[Layout, int]) -> None:
    layout, _ = held
    found = CliRunner().invoke(app, ["versions", "--root", str(layout.root)])
    assert "has no version yet" in str(found.exception)
    assert run_step("report", str(layout.root), layout.raw_days()[-1], "demo") == {"report": ""}
    found = CliRunner().invoke(app, ["rank", "--root", str(layout.root)])
    assert "has no features" in str(found.exception)


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


def refused(root: Path, told: str, **environment: str) -> None:
    """Holds that another process may not write into a root, and what it is told."""
    with process(HOLD, str(root), "another", **environment) as child:
        assert child.stderr is not None
        errors = child.stderr.read()
        assert child.wait() == 1
    assert told in errors.splitlines()[-1]


def test_processes_of_one_run_write_together_and_no_other(tmp_path: Path) -> None:
    with holder(tmp_path, "the loop") as (loop, run):
        with (
            holder(tmp_path, "training one", **{RUN: run}) as (one, _),
            holder(tmp_path, "training two", **{RUN: run}) as (two, _),
        ):
            refused(tmp_path, f"the loop (process {loop.pid} on ")
            refused(tmp_path, f"the loop (process {loop.pid} on ", **{RUN: "another"})
            loop.kill()
            loop.wait()
            refused(tmp_path, f"training one (process {one.pid} on ")
            one.kill()
            one.wait()
            refused(tmp_path, f"training two (process {two.pid} on ")
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


def test_a_step_of_a_root_that_is_not_there_makes_none(tmp_path: Path) -> None:
    root = tmp_path / "typo"
    with pytest.raises(ValueError, match="evaluate"):
        run_step("gate", str(root), DAY, "demo")
    found = CliRunner().invoke(app, ["rollback", "--root", str(root)])
    assert found.exit_code == 1
    assert not (root / LOCK).exists()


@pytest.mark.slow
def test_a_daily_run_keeps_others_off_and_its_steps_end_with_it(tmp_path: Path) -> None:
    """Through Kubeflow's local runner: steps in processes of their own, killed by -9."""
    layout = tiny_log(tmp_path / "root", days=3)
    config, day = write_config(tmp_path / "loop.json", tiny_config()), layout.raw_days()[-1]
    words = ["daily", "--root", str(layout.root), "--day", day, "--config", config]
    with process("from components.cli.main import main; main()", *words) as run:
        log = layout.run(day) / "pipeline.log"
        wait_for(lambda: log.is_file() and '"step": "features"' in log.read_text())
        for name in ("ingest", "materialize"):
            with pytest.raises(ValueError, match=rf"feedsr daily of {day} \(process {run.pid} on "):
                run_step(name, str(layout.root), day, config)
        step = int(re.findall(r'"pid": (\d+)', (layout.root / LOCK).read_text())[-1])
        assert step != run.pid
        run.kill()
        run.wait()
        wait_for(lambda: not running(step))
        run_step("ingest", str(layout.root), day, config)


def wait_for(true) -> None:  # type: ignore[no-untyped-def]
    """Returns once something is true; fails after two minutes."""
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def running(pid: int) -> bool:
    """Whether a process runs; one that ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
