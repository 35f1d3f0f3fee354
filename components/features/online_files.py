# SPDX-License-Identifier: Apache-2.0
"""Up to which day each view is in which online store, and from which files.

Feast remembers up to when a view was materialized, and neither where to nor from what. A store that
is another one or was emptied, and a file of an older day that was written anew since, would leave
rows that no later day brings back. Files that are gone because they are old change nothing online.
It knows files by their bytes, and nothing of Feast.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.layout.files import digest, write_json
from components.layout.stamps import file_digest, stamp

State = dict[str, list[Any]]
"""By day, of the days whose files are kept: when its file was written, how long it is, and a digest
of its bytes. As many as a retention keeps."""


class OnlineFiles:
    """The files that were brought online, by view.

    Days may vanish from the first on, as a retention has it. What is left has to be as it was, and
    a day between others, or the last one, must be there.

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
        online: dict[str, State] = kept.get("online", {}) if ours else {}
        # One digest of all bytes was kept before, which says nothing of a day.
        self.views = {view: state for view, state in online.items() if "bytes" not in state}

    def last_day(self, view: str) -> str | None:
        """The newest day that is online; None if there is none."""
        return max(self.views.get(view, {}), default=None)

    def changed(self, view: str, files: Mapping[str, Path]) -> bool:
        """Whether the files up to the newest day that is online are others than those that are.

        Files that are gone from the first day on are none.
        """
        kept, last = self.views.get(view), self.last_day(view)
        if kept is None or last is None:
            return False
        now = self._state(view, {day: path for day, path in files.items() if day <= last})
        first = min(now, default="")
        if _contents(now) != _contents({day: kept[day] for day in kept if day >= first}):
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
        """The state of some files; those are read that are new, or were written since."""
        kept = self.views.get(view, {})
        return {day: _looked(files[day], kept.get(day, [])) for day in sorted(files)}

    def _write(self) -> None:
        write_json(self.path, {"store": self.store, "online": self.views})


def _contents(state: State) -> dict[str, str]:
    """The digests alone."""
    return {day: content for day, (*_, content) in state.items()}


def _looked(path: Path, kept: list[Any]) -> list[Any]:
    """What is kept of a file, read anew where it was written since."""
    now = list(stamp(path))
    return kept if kept[:2] == now else [*now, file_digest(path)]
