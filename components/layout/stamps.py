# SPDX-License-Identifier: Apache-2.0
"""When a file was written, how long it is, and a digest of its bytes, which is kept.

A file is read again only where it was written since. It knows no day and no step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from components.layout.files import write_json

Stamp = tuple[int, int]
"""When a file was written, in nanoseconds, and its size."""


def stamp(path: Path) -> Stamp:
    """A file's stamp as it is now."""
    state = path.stat()
    return state.st_mtime_ns, state.st_size


def file_digest(path: Path) -> str:
    """The first 16 hex digits of the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


class Digests:
    """The digests of some files, kept with the stamp that each had.

    Args:
        path: the JSON file that is kept; one that cannot be read is made anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, files: Mapping[str, Path]) -> dict[str, str]:
        """The digest of each file by its name; what is kept is of these files alone."""
        seen = self._seen()
        now = {name: _looked(path, seen.get(name)) for name, path in files.items()}
        if now != seen:
            write_json(self._path, now)
        return {name: content for name, (*_, content) in now.items()}

    def _seen(self) -> dict[str, tuple[int, int, str]]:
        try:
            kept = json.loads(self._path.read_text())
            return {name: (int(t), int(s), str(d)) for name, (t, s, d) in kept.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}


def _looked(path: Path, seen: tuple[int, int, str] | None) -> tuple[int, int, str]:
    now = stamp(path)
    return seen if seen and seen[:2] == now else (*now, file_digest(path))
