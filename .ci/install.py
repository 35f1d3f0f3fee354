# SPDX-License-Identifier: Apache-2.0
"""What `make setup` shows while pip works: the stage it is at, and that it is alive.

It runs before anything is installed: as a file, with the standard library alone. It looks for few
of pip's words, and where pip changes one, its stage is not told; nothing else depends on them.
"""

from __future__ import annotations

import itertools
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

FIRST = "resolving packages"
BUILDING = re.compile(r"\s*Building editable for ")
INSTALLING = re.compile(r"\s*Installing collected packages: (.+)")
KEPT_LINES = 30
"""How many of the last lines of a command that failed are shown."""
TICK_SECONDS = 0.2


class Stages:
    """Tells each stage in a line; on a terminal the line also turns and counts seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._terminal = stream, stream.isatty()
        self._label, self._since = "", 0.0
        self._frames = itertools.cycle("|/-\\")

    def enter(self, label: str) -> None:
        """Begins a stage, which ends the one before; nothing where it is that stage already."""
        if label == self._label:
            return
        self.leave()
        self._label, self._since = label, time.monotonic()
        if self._terminal:
            self.tick()
        else:
            self._write(f"{label}\n")

    def tick(self) -> None:
        """Shows on a terminal that the stage goes on."""
        if self._terminal and self._label:
            self._write(f"\r{next(self._frames)} {self._label}, {self._seconds()}\x1b[K")

    def leave(self) -> None:
        """Ends the stage."""
        if self._terminal and self._label:
            self._write(f"\r  {self._label}, {self._seconds()}\x1b[K\n")
        self._label = ""

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._since:.0f} s"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def install(folder: Path, arguments: Sequence[str], stream: TextIO) -> int:
    """Makes the environment where there is none, and installs into it.

    Args:
        folder: the environment.
        arguments: what `pip install` is given.
        stream: where the stages are told.

    Returns:
        0, or the exit status of what failed, after the last lines of its output.
    """
    started, stages = time.monotonic(), Stages(stream)
    python = folder / "bin" / "python"
    if not python.exists():
        stages.enter(f"making {folder}")
        status = run([sys.executable, "-m", "venv", str(folder)], stages)
        if status:
            return status
    stages.enter(FIRST)
    pip = [str(python), "-m", "pip", "install", "--progress-bar", "off"]
    status = run([*pip, *arguments], stages)
    if not status:
        stream.write(f"done, in {time.monotonic() - started:.0f} s\n")
    return status


def run(command: Sequence[str], stages: Stages) -> int:
    """Runs a command to its end and tells the stages that its output names; its exit status."""
    kept: deque[str] = deque(maxlen=KEPT_LINES)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    try:
        for line in _lines(process, stages):
            kept.append(line)
            label = stage_of(line)
            if label:
                stages.enter(label)
        status = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        stages.leave()
    if status:
        sys.stderr.write("".join(kept))
    return status


def stage_of(line: str) -> str:
    """The stage that a line of pip's output begins, or ""."""
    if BUILDING.match(line):
        return "building the native kernels"
    names = INSTALLING.match(line)
    if not names:
        return ""
    count = len(names[1].split(","))
    return f"installing {count} package{'s' * (count > 1)}"


def _lines(process: subprocess.Popen[str], stages: Stages) -> Iterator[str]:
    """The lines of a process as they come; ticks while there is none."""
    waiting: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in process.stdout or ():
            waiting.put(line)
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = waiting.get(timeout=TICK_SECONDS)
        except queue.Empty:
            stages.tick()
            continue
        if line is None:
            return
        yield line


if __name__ == "__main__":
    # What was started is stopped also where make is told to end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(install(Path(sys.argv[1]), sys.argv[2:], sys.stdout))
    except KeyboardInterrupt:
        # Ended as if it had not been caught, so that make's shell says nothing of a failure.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
