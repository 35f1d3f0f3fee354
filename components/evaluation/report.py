# SPDX-License-Identifier: Apache-2.0
"""The day's report: one self-contained HTML file that says what was made, judged and served.

It only reads what the steps before it wrote and shows it; it computes no metric and decides
nothing. What a step has not written yet is said to be missing, so a refused or failed day has a
report too.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from components.config import DailyConfig
from components.evaluation.figures import Run, figures
from components.evaluation.scorecard import compares_within_day
from components.layout.files import atomic_path
from components.layout.paths import Layout
from components.registry import versions
from components.registry.gate import BASELINE, CANDIDATE, PRODUCTION, GateVerdict

Metrics = dict[str, Any]
LABELS = {CANDIDATE: "Feed-SR", BASELINE: "DCNv2", PRODUCTION: "production"}
INGEST_DAYS = 7
DRIFT_ROWS = 12


def report(layout: Layout, day: str, config: DailyConfig) -> Path:
    """Writes `runs/<day>/report.html` and returns its path.

    Raises:
        ValueError: the day has not been evaluated.
    """
    metrics = _read(layout.run(day) / "metrics.json")
    if metrics is None:
        raise ValueError(
            f"{layout.run(day) / 'metrics.json'} is missing: evaluate {day} before its report"
        )
    page = _environment().get_template("report.html.j2").render(_context(layout, metrics, config))
    path = layout.run(day) / "report.html"
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("components.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment


def number(value: float | None, digits: int = 4) -> str:
    """A number for a table; a dash where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _context(layout: Layout, metrics: Metrics, config: DailyConfig) -> dict[str, Any]:
    """Everything the template shows."""
    day, task = metrics["day"], config.gate.task
    rankers = [name for name in LABELS if name in metrics["rankers"]]
    days = map(_read, sorted(layout.root.glob("runs/*/metrics.json")))
    earlier = [m for m in days if m["day"] <= day and _judged(m, task)]
    curves = {name: _curve(layout.model(day, name)) for name in (CANDIDATE, BASELINE)}
    return {
        "day": day,
        "metrics": metrics,
        "spec_name": config.spec.name,
        "label": LABELS,
        "rankers": rankers,
        "others": rankers[1:],
        "impressions": metrics["rankers"][CANDIDATE]["tasks"][task]["n"],
        "quality": _quality(metrics, rankers, config.spec.task_names),
        "verdict": _verdict(layout, metrics),
        "gate_task": task,
        "min_positives": config.gate.min_positives,
        "plots": figures(Run(metrics, curves, earlier, config.spec.task_names, task)),
        "within": compares_within_day(metrics["freshness"]),
        "segments": _segments(metrics, rankers, task),
        "moved": _moved(metrics),
        "ingest_names": INGEST_COUNTS,
        "ingest": _ingest(layout, day),
        "parity": _parity(_read(layout.run(day) / "parity.json")),
        "versions": _versions(layout, day, task),
    }


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


def _verdict(layout: Layout, metrics: Metrics) -> GateVerdict | None:
    """The gate's verdict on these metrics; None if it judged none, or the model of a run before."""
    path = layout.run(metrics["day"]) / "gate.json"
    verdict = GateVerdict.read(path) if path.is_file() else None
    return verdict if verdict and verdict.model == metrics["model"] else None


def _judged(metrics: Metrics, task: str) -> bool:
    """Whether a day's metrics have the task; a day under another spec may not."""
    return all(task in of["tasks"] for of in metrics["rankers"].values())


def _curve(model: Path) -> list[dict[str, Any]]:
    config = _read(model / "config.json") or {}
    return config.get("record", {}).get("curve", [])


def _quality(metrics: Metrics, rankers: list[str], tasks: tuple[str, ...]) -> list[dict[str, Any]]:
    """A row for each task and ranker; differences are the candidate's to each other ranker."""
    rows = []
    for task in tasks:
        candidate = metrics["rankers"][CANDIDATE]["tasks"][task]
        for name in rankers:
            of = metrics["rankers"][name]["tasks"][task]
            theirs = [metrics["rankers"][o]["tasks"][task]["auc"] for o in rankers[1:]]
            first = name == CANDIDATE
            rows.append(
                {
                    "task": task,
                    "ranker": name,
                    "first": first,
                    "auc": number(of["auc"]),
                    "differences": [_difference(candidate["auc"], t, first) for t in theirs],
                    "log_loss": number(of["log_loss"]),
                    "ece": number(of["ece"]),
                    "positives": f"{of['positives']:,}",
                }
            )
    return rows


def _difference(mine: float | None, theirs: float | None, shown: bool) -> dict[str, str]:
    if not shown or mine is None or theirs is None:
        return {"text": "", "tone": ""}
    value = mine - theirs
    return {"text": f"{value:+.4f}", "tone": "up" if value > 0 else "down" if value < 0 else ""}


def _segments(metrics: Metrics, rankers: list[str], task: str) -> list[dict[str, Any]]:
    bodies = [metrics["rankers"][name] for name in rankers]
    names = ["all", *sorted(bodies[0]["segments"], key=_natural)]
    rows = []
    for name in names:
        of = [(b["tasks"] if name == "all" else b["segments"][name])[task] for b in bodies]
        rows.append({"name": name, "aucs": [o["auc"] for o in of], **_counts(of[0])})
    if metrics["freshness"] == "day":
        of = [b["within_member"][task] for b in bodies]
        rows.append(
            {
                "name": "within a member",
                "aucs": [o["auc"] for o in of],
                "n": of[0]["impressions"],
                "positives": None,
            }
        )
    return rows


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Orders names by the numbers in them, as people do."""
    return [(p.isdigit(), int(p) if p.isdigit() else 0, p) for p in re.split(r"(\d+)", name)]


def _counts(of: dict[str, Any]) -> dict[str, int]:
    return {"n": of["n"], "positives": of["positives"]}


def _moved(metrics: Metrics) -> list[dict[str, Any]]:
    rows = [
        {"name": name, "psi": of["psi"], "train": of["train"][-1], "later": of["eval"][-1]}
        for name, of in metrics["drift"].items()
    ]
    return sorted(rows, key=lambda row: (-(row["psi"] or 0.0), row["name"]))[:DRIFT_ROWS]


INGEST_COUNTS = ("read", "kept", "duplicates", "quarantined", "late")


def _ingest(layout: Layout, day: str) -> list[dict[str, Any]]:
    """What ingest did with the last days' logs."""
    rows = []
    for one in [d for d in layout.impression_days() if d <= day][-INGEST_DAYS:]:
        counts = _read(layout.ingest_counts(one))
        if counts is None:
            continue
        reasons = counts["quarantined"]
        totals = {**counts, "quarantined": sum(reasons.values())}
        rows.append(
            {
                "day": one,
                "counts": [totals[name] for name in INGEST_COUNTS],
                "reasons": "; ".join(f"{reason} ({n:,})" for reason, n in sorted(reasons.items())),
            }
        )
    return rows


def _parity(found: Any) -> str:
    """One sentence on the parity step, which fails the run where anything differs."""
    if found is None:
        return "The parity step has not run on this day, or it found a difference."
    return (
        f"{found['requests']:,} requests with {found['candidates']:,} candidates were made again "
        "offline: every feature is equal bit for bit. Scores differ by at most "
        f"{found['served_difference']:.1e} from what was served and "
        f"{found['forward_difference']:.1e} from the training forward; "
        f"{found['bound']:.1e} is allowed for the rounding of the dtype."
    )


def _versions(layout: Layout, day: str, task: str) -> list[dict[str, Any]]:
    """Every registered version, newest first, with a link relative to the report."""
    now, rows = versions.current(layout), []
    for name in reversed(versions.versions(layout)):
        record = versions.version_record(layout, name)
        notes = ["in production"] if name == now else []
        notes += ["this day's model"] if record["day"] == day else []
        rows.append(
            {
                "name": name,
                "link": f"../../registry/versions/{name}/version.json",
                "auc": record["metrics"].get(task, {}).get("auc"),
                "passed": record["gate"]["passed"],
                "note": ", ".join(notes),
            }
        )
    return rows
