# SPDX-License-Identifier: Apache-2.0
"""A root has one writer: the lock that whoever writes into a run's root holds while it does.

The processes of one run hold it together, on this machine or in pods that share a volume: they know
each other by the run's id. Readers (serving, ranking, lists, the report) take no lock, and neither
does serving's request log, whose files nobody else writes. The system frees the lock when a process
dies, however it dies; `root/.lock` stays and says nothing by itself.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import random
import select
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

LOCK = ".lock"
RUN, RUN_PID = "FEEDSR_RUN", "FEEDSR_RUN_PID"
"""The id of the run that this process is a part of, and the process whose end is the run's end."""

ATTEMPTS, PAUSE_SECONDS = 6, 0.04
"""How often a lock is asked for: another may have held it just to look."""

NOTED = {"run", "command", "since", "pid", "host"}
"""What is noted of a holder."""

_held: dict[tuple[int, int], str] = {}
"""The runs in whose name this process holds locks, by the lock file's device and number."""


@contextmanager
def writing(root: Path, command: str) -> Iterator[dict[str, str]]:
    """Makes this process the root's writer for the length of a block, or leaves it that.

    Args:
        root: the run's root, made where it is not there; any spelling of it is the same root.
        command: what writes, for the people who are refused meanwhile.

    Yields:
        the environment in which a child process writes as a part of the same run.

    Raises:
        ValueError: another run writes into the root: which, since when and what to do. Nothing is
            changed then.
        OSError: the root cannot be written to, or its file system takes no locks.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK).open("a+", encoding="utf-8") as file:
        state = os.fstat(file.fileno())
        place = (state.st_dev, state.st_ino)
        outermost = place not in _held
        if outermost:
            _held[place] = _take(file, root, command)
        try:
            yield {RUN: _held[place], RUN_PID: str(os.getpid())}
        finally:
            if outermost:
                del _held[place]


def follow_run() -> None:
    """Ends this process with the one that started its run.

    No step writes on for a run that was killed, while the next one begins.
    """
    pid, watch = os.environ.get(RUN_PID), getattr(os, "pidfd_open", None)
    if not pid or watch is None or int(pid) == os.getpid():
        return
    try:
        handle = watch(int(pid))
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGKILL)
        return

    def wait() -> None:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.poll()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="follow-run", daemon=True).start()


def _take(file: TextIO, root: Path, command: str) -> str:
    """Takes the lock in the name of this process's run, and returns that; ValueError if it is held.

    Who begins a run holds the lock alone while it notes the run; all who belong to it share it.
    """
    run = os.environ.get(RUN) or os.environ.get("TORCHELASTIC_RUN_ID") or uuid.uuid4().hex
    for _ in range(ATTEMPTS):
        if _lock(file, fcntl.LOCK_EX):
            file.truncate(0)
            _note(file, run, command)
        # Giving up the exclusive lock for the shared one may let another in between.
        if _lock(file, fcntl.LOCK_SH):
            holders = _holders(file)
            if holders and holders[-1]["run"] == run:
                if not _is_this(holders[-1]):
                    _note(file, run, command)
                return run
            fcntl.flock(file, fcntl.LOCK_UN)
        time.sleep(PAUSE_SECONDS * (0.5 + random.random()))
    raise ValueError(
        f"{root} is being written to by {_who(_holders(file))}; wait until it ends, or stop it, "
        "and run this again: nothing was changed"
    )


def _lock(file: TextIO, kind: int) -> bool:
    """Whether the lock could be had at once."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise OSError(error.errno, error.strerror, file.name) from error
    return True


def _note(file: TextIO, run: str, command: str) -> None:
    """Adds this process to those that hold the lock."""
    since = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="seconds")
    holder = {"run": run, "command": command, "since": since, **_this()}
    file.write(json.dumps(holder) + "\n")
    file.flush()


def _this() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname()}


def _is_this(holder: dict[str, Any]) -> bool:
    return {name: holder[name] for name in ("pid", "host")} == _this()


def _holders(file: TextIO) -> list[dict[str, Any]]:
    """Those who hold the lock or held it in the same run, first to last."""
    file.seek(0)
    notes = []
    for line in file.read().splitlines():
        with contextlib.suppress(ValueError):
            notes.append(json.loads(line))
    return [note for note in notes if isinstance(note, dict) and note.keys() >= NOTED]


def _who(holders: list[dict[str, Any]]) -> str:
    """The first holder that still lives, for people; of another host nobody here can tell."""
    living = [h for h in holders if h["host"] != socket.gethostname() or is_alive(int(h["pid"]))]
    if not living:
        return "another process"
    first = living[0]
    return f"{first['command']} (process {first['pid']} on {first['host']}, since {first['since']})"


def is_alive(pid: int) -> bool:
    """Whether this machine has such a process, of whichever user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
