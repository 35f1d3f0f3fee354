# SPDX-License-Identifier: Apache-2.0
"""Which offline files of each view are in which online store, and in which state.

Feast remembers up to when a view was materialized, and neither where to nor from what. A store that
is another one or was emptied, and a file of an older day that was written anew since, would leave
rows that no later day brings back. It knows files by their bytes, and nothing of Feast.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.layout.files import digest, write_json

State = dict[str, dict[str, Any]]


class OnlineFiles:
    """The files that were brought online, by view and day.

    Args:
        path: the JSON file that is kept.
        store: what tells one online store, and the spec it serves, from another; with another
            nothing counts as online.
    """

    def __init__(self, path: Path, store: str) -> None:
        self.path = path
        self.store = digest(store)
        kept = json.loads(path.read_text()) if path.is_file() else {}
        self.views: dict[str, State] = kept["views"] if kept.get("store") == self.store else {}

    def last_day(self, view: str) -> str | None:
        """The newest day that is online; None if there is none."""
        return max(self.views.get(view, {}), default=None)

    def changed(self, view: str, files: Mapping[str, Path]) -> bool:
        """Whether the files up to the newest day that is online are others than those that are."""
        online, last = self.views.get(view, {}), self.last_day(view)
        now = self._state(view, {d: p for d, p in files.items() if last and d <= last})
        return {d: s["bytes"] for d, s in now.items()} != {d: s["bytes"] for d, s in online.items()}

    def note(self, view: str, files: Mapping[str, Path]) -> None:
        """These files are online now."""
        self.views[view] = self._state(view, files)
        self._write()

    def forget(self, view: str) -> None:
        """Nothing of the view counts as online."""
        self.views.pop(view, None)
        self._write()

    def _state(self, view: str, files: Mapping[str, Path]) -> State:
        """By day, when and how long the file is, and a digest; read only where the former moved."""
        state: State = {}
        for day, path in sorted(files.items()):
            stat, online = path.stat(), self.views.get(view, {}).get(day, {})
            stamp = [stat.st_mtime_ns, stat.st_size]
            content = online["bytes"] if online.get("stamp") == stamp else _file_digest(path)
            state[day] = {"stamp": stamp, "bytes": content}
        return state

    def _write(self) -> None:
        write_json(self.path, {"store": self.store, "views": self.views})


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
