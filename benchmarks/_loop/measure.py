# SPDX-License-Identifier: Apache-2.0
"""What a step takes: its seconds, CPU, memory and bytes, in a process of its own.

Memory is of the largest single process, because limits are set on processes. Children that nobody
waits for (Spark's machine) are watched in /proc. Knows no step by name.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

STEP = Path(__file__).with_name("step.py")
LOOK_SECONDS = 1.0
TICKS = os.sysconf("SC_CLK_TCK")
LIMIT_SECONDS = 3 * 3600

ERROR = re.compile(r"[\w.]+(Error|Exception): ")
"""How the line of a traceback begins that says what happened; what follows may be hints."""

State = dict[str, tuple[int, int, int]]
"""Files of a folder: when each was written, its number and size."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A step that is run.

    Attributes:
        tree: the checkout whose code runs.
        root: the run's.
        config: fields of the configuration; those that the tree does not know are left out.
        alone: call the step's own function for this day, without the loop's ledger.
        env: variables beside the process's own.
    """

    tree: Path
    step: str
    root: Path
    day: str
    config: Mapping[str, Any]
    alone: bool = False
    env: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """For the process that runs it."""
        names = ("tree", "step", "root", "day")
        values = {name: str(getattr(self, name)) for name in names}
        return json.dumps(values | {"config": dict(self.config), "alone": self.alone})


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a step took.

    Attributes:
        cpu_s: user and system seconds of the process and of those below it.
        peak_mib: memory of the largest process.
        read_mib: what the process asked to read, modules included; not what it maps.
        written_mib: files of the root that are new or were written anew, by their folder.
        died: the error of a step that failed, or its last line; "" of one that did not.
        inside_s: seconds of the call that a step says it is about, without imports; else 0.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float
    read_mib: float
    written_mib: dict[str, float]
    died: str
    inside_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure(call: Call) -> Cost:
    """Runs a step to its end or its death."""
    before, started = files(call.root), time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, str(STEP), call.text()],
            stdout=out,
            stderr=said,
            env={**os.environ, **call.env, "FEEDSR_PROGRESS": "off"},
        )
        watch = Watch(process)
        try:
            status, usage = watch.until_end(started + LIMIT_SECONDS)
        finally:
            if process.returncode is None:
                process.kill()
        wall = time.monotonic() - started
        lines = [_last_line(out), _last_line(said)]
    own = json.loads(lines[0] or '{"peak_bytes": 0, "read_bytes": 0}')
    peak = max(own["peak_bytes"] or 1024 * usage.ru_maxrss, watch.peak_bytes)
    return Cost(
        wall_s=round(wall, 2),
        cpu_s=round(usage.ru_utime + usage.ru_stime + watch.cpu_s, 2),
        peak_mib=round(peak / 2**20, 1),
        read_mib=round(own["read_bytes"] / 2**20, 1),
        written_mib=_written(before, files(call.root)),
        died=_death(status, lines[1]),
        inside_s=own.get("inside_s", 0.0),
    )


class Watch:
    """A process and those below it, looked at until the first ends.

    Args:
        process: it.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._below: dict[int, float] = {}
        self.peak_bytes, self.cpu_s = 0, 0.0

    def until_end(self, limit: float) -> tuple[int, Any]:
        """The exit status and usage; a process past the limit is killed."""
        end = os.pidfd_open(self._process.pid)
        try:
            while not select.select([end], [], [], LOOK_SECONDS)[0]:
                if time.monotonic() > limit:
                    self._process.kill()
                self._look()
        finally:
            os.close(end)
        # Those that outlive the process were not waited for, so its usage leaves them out.
        self.cpu_s = sum(cpu for n, cpu in self._below.items() if Path("/proc", str(n)).exists())
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return self._process.returncode, usage

    def _look(self) -> None:
        parents: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (stat := _stat(entry)):
                parents.setdefault(int(stat[1]), []).append(int(entry.name))
        below, left = [], [self._process.pid]
        while left:
            children = parents.get(left.pop(), [])
            below += children
            left += children
        self._below = {}
        for number in below:
            self._look_at(number)

    def _look_at(self, number: int) -> None:
        folder = Path("/proc", str(number))
        stat = _stat(folder)
        try:
            high = (folder / "status").read_text().split("VmHWM:")[1].split()[0]
        except (OSError, IndexError):
            return
        if stat:
            self._below[number] = (int(stat[11]) + int(stat[12])) / TICKS
            self.peak_bytes = max(self.peak_bytes, 1024 * int(high))


def files(root: Path) -> State:
    """The files below a folder, by their path in it."""
    paths = [path for path in root.rglob("*") if path.is_file()]
    states = {str(path.relative_to(root)): path.lstat() for path in paths}
    return {name: (s.st_mtime_ns, s.st_ino, s.st_size) for name, s in states.items()}


def _written(before: State, after: State) -> dict[str, float]:
    """MiB of the files that are new or another, by the folder they lie in."""
    bytes_: Counter[str] = Counter()
    for path, state in after.items():
        if before.get(path) != state:
            parts = Path(path).parts[:-1]
            bytes_["/".join(p for p in parts[:2] if "=" not in p) or "."] += state[2]
    return {name: round(size / 2**20, 3) for name, size in sorted(bytes_.items())}


def _death(status: int, last: str) -> str:
    if status == 0:
        return ""
    return f"killed by signal {-status}" if status < 0 else last[:300] or f"exit status {status}"


def _stat(folder: Path) -> list[str] | None:
    """The fields of /proc/<pid>/stat behind the name; None of a process that is gone."""
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _last_line(file: Any) -> str:
    """What a step said at last: its error where there is one."""
    file.seek(0)
    lines = [line for line in file.read().splitlines() if line.strip()]
    errors = [line for line in lines if ERROR.match(line)]
    return (errors or lines or [""])[-1].strip()
