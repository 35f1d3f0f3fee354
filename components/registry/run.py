# SPDX-License-Identifier: Apache-2.0
"""A day's run: the folder that its steps write into, and the records in it as values.

The one place that knows the records' files. It knows nothing of what the steps do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from components.layout.paths import Layout
from components.registry.json_record import RunRecord
from components.registry.metrics import DayMetrics
from components.registry.records import GateVerdict, Parity, Plan

R = TypeVar("R", bound=RunRecord)


@dataclass(frozen=True)
class Run:
    """The run of one day, YYYY-MM-DD, in a root; nothing is read before it is asked for.

    Each record raises ValueError, in one sentence, where its step has not written it or the file is
    damaged.
    """

    layout: Layout
    day: str

    @classmethod
    def evaluated(cls, layout: Layout) -> list[Run]:
        """The runs of a root that have metrics, by day."""
        files = layout.root.glob(f"runs/*/{DayMetrics.file}")
        return [cls(layout, path.parent.name) for path in sorted(files)]

    @property
    def folder(self) -> Path:
        """Where everything lies that the run makes beside the shared tables."""
        return self.layout.run(self.day)

    @property
    def report(self) -> Path:
        """The day's page for people."""
        return self.folder / "report.html"

    @property
    def log(self) -> Path:
        """What the pipeline's local runner printed."""
        return self.folder / "pipeline.log"

    @property
    def plan(self) -> Plan:
        """What the run trains on; its folders are absolute."""
        return self.read(Plan).under(self.layout.root)

    @property
    def metrics(self) -> DayMetrics:
        """What was measured on the day."""
        return self.read(DayMetrics)

    @property
    def verdict(self) -> GateVerdict:
        """What the gate said of the day's model."""
        return self.read(GateVerdict)

    @property
    def parity(self) -> Parity:
        """How far serving and the offline path are apart."""
        return self.read(Parity)

    def holds(self, kind: type[RunRecord]) -> bool:
        """Whether a record was written."""
        return self._path(kind).is_file()

    def read(self, kind: type[R]) -> R:
        """A record; ValueError if it was not written or is damaged."""
        path = self._path(kind)
        if not path.is_file():
            raise ValueError(f"{path} is missing: run feedsr {kind.step} --day {self.day} first")
        return kind.read(path)

    def write(self, record: RunRecord) -> None:
        """Writes a record in the place of the one of a run before, by a rename."""
        record.write(self._path(type(record)))

    def _path(self, kind: type[RunRecord]) -> Path:
        return self.folder / kind.file
