# SPDX-License-Identifier: Apache-2.0
"""The command line as a whole: its groups, its help, completion, and how it ends."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.loop.errors import StepError
from tests.components.cli.conftest import Feedsr, StandIn

GROUPS = {
    "Daily loop": """demo daily ingest features histories materialize sequences train evaluate gate
        parity register report prune pipeline submit""",
    "Log": "simulate import columns",
    "Serving": "serve rank",
    "Registry": "versions promote rollback",
    "Studies": "backtest leakage ablate compare incremental scaling results",
}
COMMANDS = " ".join(GROUPS.values()).split()
HEAVY = ("torch", "feast", "kfp", "kserve", "pyarrow", "duckdb", "numpy")


def process(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a process, which tells at its end what heavy modules it has imported."""
    code = (
        "import atexit, sys\n"
        f"heavy = {HEAVY!r}\n"
        "atexit.register(lambda: print([m for m in heavy if m in sys.modules], file=sys.stderr))\n"
        "from components.cli.main import main\n"
        "main()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80", **environment},
    )


def listed(text: str) -> dict[str, list[str]]:
    """The lines of a help's list of commands, by group."""
    groups: dict[str, list[str]] = {}
    for paragraph in text.split("\n\n"):
        title, *lines = paragraph.strip("\n").split("\n")
        groups[title.rstrip(":")] = lines
    return {name: lines for name, lines in groups.items() if name in GROUPS}


def test_commands_are_listed_by_group_each_in_a_line_of_a_terminal(feedsr: Feedsr) -> None:
    shown = feedsr("--help")
    groups = listed(shown.out)
    assert list(groups) == list(GROUPS)
    for name, lines in groups.items():
        assert [line.split()[0] for line in lines] == GROUPS[name].split()
        for line in lines:
            assert len(line) <= 80
            assert line.endswith("."), "cut off"
    assert shown.out.isascii(), "plain text: no box, no colour"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_its_options_are(feedsr: Feedsr, command: str) -> None:
    shown = feedsr(command, "--help")
    assert shown.status == 0
    assert shown.out.startswith(f"Usage: feedsr {command} ")
    _, _, options = shown.out.partition("Options:\n")
    for line in options.splitlines():
        if line.startswith("  --"):
            name, *about = line.strip().split("  ", maxsplit=1)
            assert about, f"{name} has a long name"
            assert not about[0].strip().startswith("["), f"{name} says nothing of itself"


def test_help_is_there_at_once_and_imports_nothing_heavy() -> None:
    best = 9.0
    for _ in range(3):
        started = time.perf_counter()
        shown = process("--help")
        best = min(best, time.perf_counter() - started)
        assert (shown.returncode, shown.stderr) == (0, "[]\n")
    assert best < 1.0


def test_the_version_is_the_package_s(feedsr: Feedsr) -> None:
    told = feedsr("--version")
    assert told.status == 0
    assert told.out == f"feedsr {importlib.metadata.version('feedsr')}\n"


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("feedsr r", ["register", "report", "rank", "rollback", "results"]),
        ("feedsr rank --m", ["--member"]),
        ("feedsr daily --", ["--root", "--day", "--config", "--help"]),
        ("feedsr rank --root ", []),
    ],
)
def test_completion_answers_bash_and_imports_nothing_heavy(
    words: str, completed: list[str]
) -> None:
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    answer = process(_FEEDSR_COMPLETE="complete_bash", **asked)
    assert (answer.returncode, answer.stderr) == (0, "[]\n")
    assert answer.stdout.split() == completed


IN_BASH = """
eval "$(feedsr --show-completion)"
complete -p feedsr >&2
for words in "$@"; do
  COMP_WORDS=($words) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  _feedsr_completion feedsr
  echo "${COMPREPLY[@]}"
done
"""


@pytest.mark.skipif(not shutil.which("bash"), reason="wants bash")
def test_bash_completes_with_the_script_that_is_shown(tmp_path: Path) -> None:
    command = tmp_path / "feedsr"
    code = "from components.cli.main import main; main()"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(
        ["bash", "--norc", "-c", IN_BASH, "bash", "feedsr tr", "feedsr promote --f"],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        },
    )
    assert done.stdout.splitlines() == ["train", "--force"]
    assert "-F _feedsr_completion feedsr" in done.stderr


def test_a_command_line_that_cannot_be_parsed_is_two(feedsr: Feedsr) -> None:
    for words in (
        ["daily", "--nothing"],
        ["nothing"],
        ["serve", "--port", "65536"],
        ["demo", "--days", "3"],
        ["promote"],
        [],
    ):
        assert feedsr(*words).status == 2


def test_a_trace_can_be_asked_for(tmp_path: Path) -> None:
    traced = process("versions", "--root", str(tmp_path), FEEDSR_TRACE="1")
    assert traced.returncode == 1
    assert "Traceback" in traced.stderr
    assert "has no version yet" in traced.stderr


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("the value\n  is wrong"), "the value is wrong"),
        (StepError("gate: it failed (log: x)"), "gate: it failed (log: x)"),
        (ConnectionError("nobody there"), "nobody there"),
        (OSError(28, "No space left on device", "a/b"), "a/b: no space left on device; look at"),
    ],
)
def test_what_a_user_can_mend_is_told_in_a_sentence(
    feedsr: Feedsr, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    monkeypatch.setattr("components.loop.demo.demo", raising(error))
    assert feedsr("demo").sentence.startswith(told)


def test_a_fault_of_ours_is_traced(feedsr: Feedsr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.loop.demo.demo", raising(KeyError("ours")))
    with pytest.raises(KeyError, match="ours"):
        feedsr("demo")


def raising(error: Exception):  # type: ignore[no-untyped-def]
    def raises(*_: object, **__: object) -> None:
        raise error

    return raises


def test_threads_do_not_spin_unless_it_is_asked_for(
    feedsr: Feedsr, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in("components.loop.demo.demo")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert feedsr("demo").status == 0
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    feedsr("demo")
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
