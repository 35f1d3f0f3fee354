# SPDX-License-Identifier: Apache-2.0
"""Whatever writes into a root is refused while another does, and no reader is."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.cli.main import app
from components.layout.paths import Layout
from components.layout.writer import LOCK
from components.log.sources.base import fresh_raw
from components.loop.daily import daily
from components.loop.steps import ORDER, run_step
from tests.loop_builders import tiny_config, tiny_log, write_config
from tests.writer_builders import holder, process

DAY = "2026-01-05"


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
        "versions": ["versions", "--prune", "1"],
        "prune": ["prune", "--keep-days", "1"],
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
        config = ["--config", "demo"] if name not in ("promote", "rollback", "versions") else []
        result = CliRunner().invoke(app, [*words, "--root", str(layout.root), *config])
        assert result.exit_code == 1, name
        assert isinstance(result.exception, ValueError), (name, result.exception)
        assert str(result.exception).startswith(told), name
        assert "wait until it ends, or stop it" in str(result.exception)
        assert tree(layout.root) == before, name


def test_the_refused_one_ends_with_one_sentence_and_a_status(held: tuple[Layout, int]) -> None:
    layout, pid = held
    command = [sys.executable, "-c", "from components.cli.main import main; main()"]
    words = ["ingest", "--root", str(layout.root), "--config", "demo"]
    result = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    assert re.fullmatch(
        rf"feedsr: \S+ is being written to by .*process {pid} on .*\n", result.stderr
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
    result = CliRunner().invoke(app, ["versions", "--root", str(layout.root)])
    assert "has no version yet" in str(result.exception)
    assert run_step("report", str(layout.root), layout.raw_days()[-1], "demo") == {"report": ""}
    result = CliRunner().invoke(app, ["rank", "--root", str(layout.root)])
    assert "has no features" in str(result.exception)


def test_a_step_of_a_root_that_is_not_there_makes_none(tmp_path: Path) -> None:
    root = tmp_path / "typo"
    with pytest.raises(ValueError, match="evaluate"):
        run_step("gate", str(root), DAY, "demo")
    result = CliRunner().invoke(app, ["rollback", "--root", str(root)])
    assert result.exit_code == 1
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
