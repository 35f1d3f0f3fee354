# SPDX-License-Identifier: Apache-2.0
"""The day's report: one self-contained HTML file that says what was made, judged and served.

It only reads what the steps before it wrote and shows it; it computes no metric and decides
nothing. What a step has not written yet is said to be missing, so a refused or failed day has a
report too. The rows of its tables are `components.evaluation.tables`'.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from components.config import DailyConfig
from components.evaluation import tables
from components.evaluation.figures import PlotData, figures
from components.evaluation.scorecard import compares_within_day
from components.layout.files import atomic_path
from components.layout.paths import Layout
from components.registry.gate import BASELINE, CANDIDATE, PRODUCTION
from components.registry.metrics import DayMetrics
from components.registry.records import CurvePoint, GateVerdict, Parity, TrainedModel
from components.registry.run import Run

LABELS = {CANDIDATE: "Feed-SR", BASELINE: "DCNv2", PRODUCTION: "production"}


def report(layout: Layout, day: str, config: DailyConfig) -> Path:
    """Writes `runs/<day>/report.html` and returns its path.

    Raises:
        ValueError: the day has not been evaluated, or a file that it shows is damaged.
    """
    run = Run(layout, day)
    page = _environment().get_template("report.html.j2").render(_context(run, config))
    with atomic_path(run.report) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return run.report


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("components.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = tables.number
    return environment


def _context(run: Run, config: DailyConfig) -> dict[str, Any]:
    """Everything the template shows."""
    metrics, task = run.metrics, config.gate.task
    rankers = [name for name in LABELS if name in metrics.rankers]
    return {
        "day": run.day,
        "metrics": metrics,
        "spec_name": config.spec.name,
        "label": LABELS,
        "rankers": rankers,
        "others": rankers[1:],
        "impressions": metrics.rankers[CANDIDATE].tasks[task].n,
        "quality": tables.quality(metrics, rankers, config.spec.task_names),
        "verdict": _verdict(run, metrics),
        "gate_task": task,
        "min_positives": config.gate.min_positives,
        "plots": figures(_plot_data(run, metrics, config)),
        "within": compares_within_day(metrics.freshness),
        "segments": tables.segments(metrics, rankers, task),
        "moved": tables.moved(metrics),
        "ingest_names": tables.INGEST_COUNTS,
        "ingest": tables.ingest(run.layout, run.day),
        "parity": _parity(run.parity if run.holds(Parity) else None),
        "versions": tables.versions(run.layout, run.day, task),
    }


def _plot_data(run: Run, metrics: DayMetrics, config: DailyConfig) -> PlotData:
    """What is drawn; a day that has not the gate's task, of another spec, is left out."""
    task = config.gate.task
    runs = [other for other in Run.evaluated(run.layout) if other.day <= run.day]
    days = [other.metrics for other in runs]
    curves = {name: _curve(run.layout.model(run.day, name)) for name in (CANDIDATE, BASELINE)}
    return PlotData(
        metrics=metrics,
        curves=curves,
        days=[day for day in days if all(task in r.tasks for r in day.rankers.values())],
        tasks=config.spec.task_names,
        task=task,
    )


def _curve(folder: Path) -> tuple[CurvePoint, ...]:
    trained = TrainedModel.beside(folder)
    return trained.record.curve if trained else ()


def _verdict(run: Run, metrics: DayMetrics) -> GateVerdict | None:
    """The gate's verdict on these metrics; None if it judged none, or the model of a run before."""
    verdict = run.verdict if run.holds(GateVerdict) else None
    return verdict if verdict and verdict.model == metrics.model else None


def _parity(parity: Parity | None) -> str:
    """One sentence on the parity step, which fails the run where anything differs."""
    if parity is None:
        return "The parity step has not run on this day, or it found a difference."
    return (
        f"{parity.requests:,} requests with {parity.candidates:,} candidates were made again "
        "offline: every feature is equal bit for bit. Scores differ by at most "
        f"{parity.served_difference:.1e} from what was served and "
        f"{parity.forward_difference:.1e} from the training forward; "
        f"{parity.bound:.1e} is allowed for the rounding of the dtype."
    )
