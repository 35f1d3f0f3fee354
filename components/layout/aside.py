# SPDX-License-Identifier: Apache-2.0
"""Folders for what a process puts aside while it works, in the system's place for such files.

A process that is killed leaves its folder behind, and with its death the lock in it: whoever next
puts something aside removes what nobody holds. It knows no run.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

PREFIX = "feedsr-aside-"
HELD = ".held"
"""The file whose lock says that a folder's process lives."""
ATTEMPTS = 5


@contextmanager
def aside(purpose: str) -> Iterator[Path]:
    """A new folder of this process, for the length of a block.

    Args:
        purpose: a part of its name, for people.
    """
    home = Path(tempfile.gettempdir())
    _remove_left(home)
    folder, file = _held(home, f"{PREFIX}{purpose}-")
    with file:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _held(home: Path, prefix: str) -> tuple[Path, TextIO]:
    """A new folder, and its file whose lock this process holds as long as it is open."""
    for _ in range(ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=home))
        # Another process may take a folder for left until it is locked.
        with suppress(FileNotFoundError):
            file = (folder / HELD).open("a")
            fcntl.flock(file, fcntl.LOCK_EX)
            if (folder / HELD).is_file():
                return folder, file
            file.close()
    raise OSError(f"{home} keeps no new folder: others remove what is made there")


def _remove_left(home: Path) -> None:
    """Removes the folders that no living process holds."""
    for folder in home.glob(f"{PREFIX}*"):
        # It may go by itself meanwhile, or be another user's.
        with suppress(OSError):
            if not (folder / HELD).is_file():
                folder.rmdir()
                continue
            with (folder / HELD).open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
