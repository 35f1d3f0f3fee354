# SPDX-License-Identifier: Apache-2.0
"""The `feedsr` command run in this process, and stand-ins for functions that take minutes."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.cli.main import main

ENVIRONMENT = ("ROOT", "CONFIG", "TRACE", "KFP_HOST", "KFP_NAMESPACE")


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it said."""

    status: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one sentence that a mistake ends in."""
        assert self.status == 1
        assert self.err.startswith("feedsr: ")
        assert len(self.err.splitlines()) == 1
        assert "Traceback" not in self.err
        return self.err.removeprefix("feedsr: ").strip()


Feedsr = Callable[..., Ended]
StandIn = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def feedsr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Feedsr:
    """Runs a command line in an empty folder, with an environment that says nothing else."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(f"FEEDSR_{name}", raising=False)
    monkeypatch.setenv("FEEDSR_PROGRESS", "off")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["feedsr", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return Ended(int(end.value.code or 0), said.out, said.err)

    return run


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Puts a stand-in where a function is looked up; returns the arguments of its calls by name.

    They are bound to the real function's parameters: a call that it would refuse fails.
    """

    def put(target: str, answer: Any = None) -> list[dict[str, Any]]:
        module, _, name = target.rpartition(".")
        real = getattr(importlib.import_module(module), name)
        calls: list[dict[str, Any]] = []

        def called(*arguments: Any, **options: Any) -> Any:
            calls.append(inspect.signature(real).bind(*arguments, **options).arguments)
            return answer

        monkeypatch.setattr(target, called)
        return calls

    return put
