# SPDX-License-Identifier: Apache-2.0
"""`make setup` tells a line a stage whatever pip says, and ends as pip ended."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.script_loader import load

module = load(".ci/install.py")
Stages, install, stage_of = module.Stages, module.install, module.stage_of

PIP = """
Obtaining file:///work
  Installing build dependencies: started
Collecting torch>=2.11 (from feedsr==0.1.0)
Building wheels for collected packages: feedsr
  Building editable for feedsr (pyproject.toml): started
  Building editable for feedsr (pyproject.toml): finished with status 'done'
  Building wheel for kfp (pyproject.toml): started
Installing collected packages: pytz, torch, feedsr
Successfully installed feedsr-0.1.0 pytz-2025.2 torch-2.11.0
"""
NATIVE = "building the native kernels"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def environment(folder: Path, pip: str) -> Path:
    """An environment whose Python is a shell script."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{pip}\n")
    python.chmod(0o755)
    return folder


def saying(text: str, tmp_path: Path) -> str:
    """A shell command that says a text."""
    (tmp_path / "said").write_text(text)
    return f"cat '{tmp_path}/said'"


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        ("  Building editable for feedsr (pyproject.toml): started", NATIVE),
        ("Installing collected packages: torch", "installing 1 package"),
        ("Installing collected packages: pytz, torch, feedsr\n", "installing 3 packages"),
        ("Collecting torch", ""),
        ("Installing collected packages:", ""),
        ("INSTALLING 7 PACKAGES", ""),
        ("", ""),
    ],
)
def test_few_words_of_pip_begin_a_stage(line: str, stage: str) -> None:
    assert stage_of(line) == stage


def test_off_a_terminal_each_stage_is_a_line(tmp_path: Path) -> None:
    folder, out = environment(tmp_path / "venv", saying(PIP, tmp_path)), io.StringIO()
    assert install(folder, ["-e", "."], out) == 0
    *stages, done = out.getvalue().splitlines()
    assert stages == ["resolving packages", NATIVE, "installing 3 packages"]
    assert done == "done, in 0 s"


def test_words_that_pip_has_changed_cost_a_line_and_nothing_else(tmp_path: Path) -> None:
    other = PIP.replace("Installing", "Putting").replace("Building", "Making") + "\xff\x00"
    folder, out = environment(tmp_path / "venv", saying(other, tmp_path)), io.StringIO()
    assert install(folder, [], out) == 0
    assert out.getvalue() == "resolving packages\ndone, in 0 s\n"


def test_pip_is_given_what_make_says(tmp_path: Path) -> None:
    folder = environment(tmp_path / "venv", f"printf '%s\\n' \"$@\" > '{tmp_path}/given'")
    assert install(folder, ["-c", "constraints.txt", "-e", ".[a,b]"], io.StringIO()) == 0
    given = (tmp_path / "given").read_text().splitlines()
    assert given[:3] == ["-m", "pip", "install"]
    assert given[-4:] == ["-c", "constraints.txt", "-e", ".[a,b]"]


def test_a_failed_install_says_the_last_lines_and_ends_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "for i in $(seq 100); do echo line $i; done; echo ERROR: no such package >&2; exit 3"
    folder, out = environment(tmp_path / "venv", script), io.StringIO()
    assert install(folder, [], out) == 3
    assert out.getvalue() == "resolving packages\n"
    told = capsys.readouterr().err.splitlines()
    assert len(told) == module.KEPT_LINES
    assert told[-2:] == ["line 100", "ERROR: no such package"]


def test_an_environment_is_made_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "venv", io.StringIO()
    made = environment(tmp_path / "made", saying(PIP, tmp_path))
    maker = environment(tmp_path / "maker", f"cp -r '{made}' \"$3\"") / "bin" / "python"
    monkeypatch.setattr(sys, "executable", str(maker))
    assert install(folder, [], out) == 0
    assert out.getvalue().splitlines()[:2] == [f"making {folder}", "resolving packages"]
    assert (folder / "bin" / "python").exists()


def test_an_environment_that_cannot_be_made_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    maker = environment(tmp_path / "maker", "echo no ensurepip; exit 1") / "bin" / "python"
    monkeypatch.setattr(sys, "executable", str(maker))
    out = io.StringIO()
    assert install(tmp_path / "venv", [], out) == 1
    assert out.getvalue() == f"making {tmp_path}/venv\n"
    assert capsys.readouterr().err == "no ensurepip\n"


def test_on_a_terminal_a_stage_turns_until_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 0.02)
    script = f"sleep 0.4; {saying(PIP, tmp_path)}"
    out = Terminal()
    assert install(environment(tmp_path / "venv", script), [], out) == 0
    frames = [line.removesuffix("\x1b[K") for line in out.getvalue().splitlines()]
    turning = [frame for frame in frames if frame.endswith("resolving packages, 0 s")]
    assert {frame[0] for frame in turning} == {"|", "/", "-", "\\", " "}
    left = [frame for frame in frames if frame.startswith("  ")]
    assert left == [
        "  resolving packages, 0 s",
        f"  {NATIVE}, 0 s",
        "  installing 3 packages, 0 s",
    ]


def test_a_stage_is_told_once_and_can_come_again() -> None:
    out = io.StringIO()
    stages = Stages(out)
    for label in ("a", "a", "b", "a"):
        stages.enter(label)
        stages.tick()
    stages.leave()
    assert out.getvalue() == "a\nb\na\n"


def test_what_was_started_ends_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    folder = environment(tmp_path / "venv", f"echo $$ > '{note}'; exec sleep 60")
    command = [sys.executable, "-P", str(module.__file__), str(folder), "x"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 30
        while not (note.is_file() and note.read_text().strip()):
            assert time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert err == b""
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_it_runs_before_anything_is_installed(tmp_path: Path) -> None:
    folder = environment(tmp_path / "venv", saying(PIP, tmp_path))
    bare = [sys.executable, "-I", "-S", str(module.__file__), str(folder)]
    ended = subprocess.run(bare, capture_output=True, text=True, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-2] == "installing 3 packages"
