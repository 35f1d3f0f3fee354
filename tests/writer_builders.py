# SPDX-License-Identifier: Apache-2.0
"""Real processes that write into a root, are refused, or follow a run; ended with the block."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def refused(root: Path, told: str, **environment: str) -> None:
    """Holds that another process may not write into a root, and what it is told."""
    with process(HOLD, str(root), "another", **environment) as child:
        assert child.stderr is not None
        errors = child.stderr.read()
        assert child.wait() == 1
    assert told in errors.splitlines()[-1]
