# SPDX-License-Identifier: Apache-2.0
"""Up to which day each view is in which online store, and from which state of its files.

Feast remembers up to when a view was materialized, and neither where to nor from what. A store that
is another one or was emptied, and a file of an older day that was written anew since, would leave
rows that no later day brings back. A view is one short record, however many days it has: it knows
files by their bytes, and nothing of Feast.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.layout.files import digest, fingerprint, write_json

State = dict[str, str]
"""The newest `day`; `stamps`, a digest of when and how long each file through it is; `bytes`, one
of their content, each day's over the one before."""


class OnlineFiles:
    """The state of the files that were brought online, by view.

    Args:
        path: the JSON file that is kept.
        store: what tells one online store, and the spec it serves, from another; with another
            nothing counts as online.
    """

    def __init__(self, path: Path, store: str) -> None:
        self.path = path
        self.store = digest(store)
        kept: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        ours = kept.get("store") == self.store
        # Another name than that of the lists of files that were kept before.
        self.views: dict[str, State] = kept.get("online", {}) if ours else {}

    def last_day(self, view: str) -> str | None:
        """The newest day that is online; None if there is none."""
        state = self.views.get(view)
        return state["day"] if state else None

    def changed(self, view: str, files: Mapping[str, Path]) -> bool:
        """Whether the files up to the newest day that is online are others than those that are."""
        state = self.views.get(view)
        if state is None:
            return False
        now = self._state(view, {d: p for d, p in files.items() if d <= state["day"]})
        if now["bytes"] != state["bytes"] or now["day"] != state["day"]:
            return True
        self.views[view] = now
        return False

    def note(self, view: str, files: Mapping[str, Path]) -> None:
        """These files are online now."""
        if files:
            self.views[view] = self._state(view, files)
            self._write()
        else:
            self.forget(view)

    def forget(self, *views: str) -> None:
        """Nothing of the views counts as online."""
        for view in views:
            self.views.pop(view, None)
        self._write()

    def _state(self, view: str, files: Mapping[str, Path]) -> State:
        """The state of some files; those are read that are new, or all where an older one moved."""
        kept, content = self.views.get(view), ""
        days = sorted(files)
        unread = days
        if kept:
            older = [day for day in days if day <= kept["day"]]
            if _stamps(files, older) == kept["stamps"]:
                content, unread = kept["bytes"], days[len(older) :]
        for day in unread:
            content = digest(f"{content} {day} {_file_digest(files[day])}")
        last = days[-1] if days else ""
        return {"day": last, "stamps": _stamps(files, days), "bytes": content}

    def _write(self) -> None:
        write_json(self.path, {"store": self.store, "online": self.views})


def _stamps(files: Mapping[str, Path], days: list[str]) -> str:
    """A digest of when each day's file was written, and how long it is."""
    stats = [(day, files[day].stat()) for day in days]
    return fingerprint([[day, stat.st_mtime_ns, stat.st_size] for day, stat in stats])


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
