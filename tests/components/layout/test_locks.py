# SPDX-License-Identifier: Apache-2.0
"""One process at a time holds a file's lock; the next one waits, and goes on if the first dies."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from components.layout.locks import locked

HOLD = """
import sys, time
from pathlib import Path
from components.layout.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def is_free(path: Path) -> bool:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_a_lock_is_held_for_the_block_alone(tmp_path: Path) -> None:
    """Its folder is made; what the file holds stays; an error lets go as well."""
    path = tmp_path / "new" / "lock"
    with locked(path):
        assert not is_free(path)
    assert is_free(path)
    path.write_text("text")
    with pytest.raises(KeyError), locked(path):
        raise KeyError
    assert is_free(path)
    assert path.read_text() == "text"


def test_the_next_one_waits_until_the_first_dies(tmp_path: Path) -> None:
    path, entered = tmp_path / "lock", threading.Event()

    def enter() -> None:
        with locked(path):
            entered.set()

    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            waiter = threading.Thread(target=enter, daemon=True)
            waiter.start()
            assert not entered.wait(0.3)
        finally:
            holder.kill()
    assert entered.wait(60)
    waiter.join(60)
