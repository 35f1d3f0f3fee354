# SPDX-License-Identifier: Apache-2.0
"""The rows of the report's tables, in the order in which they are shown.

It chooses, orders and compares what was measured; how a row looks is the template's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from components.evaluation.scorecard import compares_within_day
from components.layout.paths import Layout
from components.log.counts import IngestCounts
from components.registry import versions as registry
from components.registry.gate import CANDIDATE
from components.registry.json_record import read_value
from components.registry.metrics import DayMetrics

INGEST_DAYS = 7
INGEST_COUNTS = ("read", "kept", "duplicates", "quarantined", "late")
DRIFT_ROWS = 12


@dataclass(frozen=True)
class Difference:
    """How much higher the candidate's AUC is than another's; its tone is up, down or none."""

    text: str
    tone: str


@dataclass(frozen=True, kw_only=True)
class QualityRow:
    """One task and ranker; the candidate is the first of a task, and has the differences."""

    task: str
    ranker: str
    first: bool
    auc: str
    differences: list[Difference]
    log_loss: str
    ece: str
    positives: str


@dataclass(frozen=True, kw_only=True)
class SegmentRow:
    """One segment: each ranker's AUC, and what it was measured on."""

    name: str
    aucs: list[float | None]
    n: int
    positives: int | None


@dataclass(frozen=True, kw_only=True)
class MovedRow:
    """One feature: its index, and the shares that miss it in training and on the day."""

    name: str
    psi: float | None
    train: float
    later: float


@dataclass(frozen=True, kw_only=True)
class IngestRow:
    """One day's log: the counts of `INGEST_COUNTS`, and why rows were quarantined."""

    day: str
    counts: list[int]
    reasons: str


@dataclass(frozen=True, kw_only=True)
class VersionRow:
    """One registered version, with a link relative to the report."""

    name: str
    link: str
    auc: float | None
    passed: bool
    note: str


def number(value: float | None, digits: int = 4) -> str:
    """A number for a table; a dash where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def quality(metrics: DayMetrics, rankers: Sequence[str], tasks: Sequence[str]) -> list[QualityRow]:
    """A row for each task and ranker; differences are the candidate's to each other ranker."""
    return [_quality_row(metrics, rankers, task, name) for task in tasks for name in rankers]


def _quality_row(metrics: DayMetrics, rankers: Sequence[str], task: str, ranker: str) -> QualityRow:
    aucs = {name: metrics.rankers[name].tasks[task].auc for name in rankers}
    first, measured = ranker == CANDIDATE, metrics.rankers[ranker].tasks[task]
    return QualityRow(
        task=task,
        ranker=ranker,
        first=first,
        auc=number(measured.auc),
        differences=[
            difference(aucs[CANDIDATE] if first else None, aucs[other]) for other in rankers[1:]
        ],
        log_loss=number(measured.log_loss),
        ece=number(measured.ece),
        positives=f"{measured.positives:,}",
    )


def difference(mine: float | None, theirs: float | None) -> Difference:
    """Mine less theirs; nothing where one is not there."""
    if mine is None or theirs is None:
        return Difference("", "")
    value = mine - theirs
    return Difference(f"{value:+.4f}", "up" if value > 0 else "down" if value < 0 else "")


def segments(metrics: DayMetrics, rankers: Sequence[str], task: str) -> list[SegmentRow]:
    """All impressions, each segment, and within members where that may be compared."""
    measured = [metrics.rankers[name] for name in rankers]
    columns = {"all": [ranker.tasks[task] for ranker in measured]}
    for name in sorted(measured[0].segments, key=_natural):
        columns[name] = [ranker.segments[name][task] for ranker in measured]
    rows = [
        SegmentRow(
            name=name,
            aucs=[each.auc for each in column],
            n=column[0].n,
            positives=column[0].positives,
        )
        for name, column in columns.items()
    ]
    if not compares_within_day(metrics.freshness):
        return rows
    within = [ranker.within_member[task] for ranker in measured]
    aucs, impressions = [each.auc for each in within], within[0].impressions
    return [*rows, SegmentRow(name="within a member", aucs=aucs, n=impressions, positives=None)]


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Orders names by the numbers in them, as people do."""
    return [(p.isdigit(), int(p) if p.isdigit() else 0, p) for p in re.split(r"(\d+)", name)]


def moved(metrics: DayMetrics) -> list[MovedRow]:
    """The features that moved most."""
    return [
        MovedRow(name=name, psi=drift.psi, train=drift.train[-1], later=drift.eval[-1])
        for name, drift in metrics.most_moved(DRIFT_ROWS)
    ]


def ingest(layout: Layout, day: str) -> list[IngestRow]:
    """What ingest did with the last days' logs."""
    days = [earlier for earlier in layout.impression_days() if earlier <= day][-INGEST_DAYS:]
    return [_ingest_row(layout, name) for name in days if layout.ingest_counts(name).is_file()]


def _ingest_row(layout: Layout, day: str) -> IngestRow:
    remedy = f"remove it and run feedsr ingest of {day} again"
    counts = read_value(IngestCounts, layout.ingest_counts(day), remedy)
    reasons = sorted(counts.quarantined.items())
    shown = {**vars(counts), "quarantined": sum(counts.quarantined.values())}
    return IngestRow(
        day=day,
        counts=[shown[name] for name in INGEST_COUNTS],
        reasons="; ".join(f"{reason} ({rows:,})" for reason, rows in reasons),
    )


def versions(layout: Layout, day: str, task: str) -> list[VersionRow]:
    """Every registered version, newest first."""
    return [_version_row(layout, name, day, task) for name in reversed(registry.versions(layout))]


def _version_row(layout: Layout, name: str, day: str, task: str) -> VersionRow:
    record = registry.version_record(layout, name)
    notes = ["in production"] if name == registry.current(layout) else []
    notes += ["this day's model"] if record.day == day else []
    measured = record.metrics.get(task)
    return VersionRow(
        name=name,
        link=f"../../registry/versions/{name}/version.json",
        auc=measured.auc if measured else None,
        passed=record.gate.passed,
        note=", ".join(notes),
    )
