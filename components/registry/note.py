# SPDX-License-Identifier: Apache-2.0
"""What a root remembers of how it was made, so that later commands need not be told again."""

from __future__ import annotations

from pathlib import Path

from components.layout.paths import Layout
from components.registry.json_record import Record


class RootNote(Record):
    """What a root was made with: the configuration's name, and the demo's log."""

    remedy = "remove the root or choose another --root"

    config: str
    log: str | None = None

    @classmethod
    def in_root(cls, layout: Layout) -> RootNote | None:
        """The note of a root; None where nobody made one."""
        path = cls.path(layout)
        return cls.read(path) if path.is_file() else None

    @staticmethod
    def path(layout: Layout) -> Path:
        """Where it lies."""
        return layout.root / "config.json"
