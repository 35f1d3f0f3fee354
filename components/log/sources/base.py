# SPDX-License-Identifier: Apache-2.0
"""What a source of impressions is: something that writes a log into `raw/` and says what it wrote.

A source replaces what `raw/` held. It leaves duplicates and bad rows in: refusing them, and
counting them, is ingest's work.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from components.layout.paths import Layout
from components.layout.writer import writing
from feature_repo.spec import Spec


@dataclass(frozen=True, kw_only=True)
class SourceCounts:
    """What a source wrote.

    Attributes:
        impressions: rows over all raw days, duplicates and bad rows included.
        days: the arrival days written, in order.
        notes: what else the source counted, by name (rows clamped, columns ignored, ...).
    """

    impressions: int
    posts: int
    members: int
    days: tuple[str, ...]
    notes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One way to bring a log.

    Attributes:
        spec_name: the only spec this source can write, None where any will do.
        matches: whether a folder looks like this source's; looks at file names only.
        load: `(data_dir, layout, spec)`, writes `raw/`; ValueError says what is wrong.
    """

    name: str
    spec_name: str | None
    matches: Callable[[Path], bool]
    load: Callable[[Path, Layout, Spec], SourceCounts]


@contextmanager
def fresh_raw(layout: Layout) -> Iterator[Layout]:
    """A layout whose `raw/` takes the place of the run's when the block ends well.

    Two logs never mix, and one that cannot be read whole replaces nothing.
    """
    scratch, raw = layout.root / ".raw", layout.root / "raw"
    with writing(layout.root, "the import of a log"):
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "raw").mkdir(parents=True)
        try:
            yield Layout(scratch)
            if raw.exists():
                raw.replace(scratch / "old")
            (scratch / "raw").replace(raw)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
