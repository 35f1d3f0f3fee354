# SPDX-License-Identifier: Apache-2.0
"""What each step of the daily loop runs: the step's own function over the days it must cover.

The one place that knows the loop's order, which days are still missing from a step's output (a
first run backfills, a killed one goes on), and what a step reports. It computes nothing itself and
imports each step only when that step runs, because Feast and torch cost seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from components.config import DailyConfig, load_config
from components.console import emit, progress, progress_mode
from components.layout.paths import Layout
from components.layout.writer import follow_run, writing
from components.loop.ledger import Ledger
from components.registry.plan import plan

Values = dict[str, Any]
DayStep = Callable[[Layout, str, DailyConfig], object]
"""A step that does one day at a time."""

ORDER = (
    "ingest",
    "features",
    "histories",
    "materialize",
    "sequences",
    "train-feed_sr",
    "train-dcnv2",
    "evaluate",
    "gate",
    "parity",
    "register",
    "promote",
    "report",
)
"""The steps of a day's run as people see them, in the order in which the loop runs them."""

READERS = ("report",)
"""Steps that only read what others wrote, and write one page by a rename: no writer holds them up.
"""

USER_ERRORS = (ValueError, OSError)
"""What a user can mend: told in one sentence (ConnectionError and a full disk are OSErrors)."""


class StepError(RuntimeError):
    """A step of the loop failed; the text is one sentence and says where the log is."""


def run_step(name: str, root: str, day: str, config: str, **arguments: str) -> Values:
    """Runs one step and tells whoever watches when it starts, ends or fails.

    Args:
        name: a step of `STEPS`.
        root: the run's root.
        day: the as-of day, YYYY-MM-DD.
        config: a shipped configuration's name or a JSON file.
        arguments: the step's own: `ranker` of train, `version` of promote.

    Returns:
        Plain values about what was done, for artifacts and people.

    Raises:
        ValueError, OSError: the step's own, or another run writes into the root; after it was told.
    """
    label = f"{name}-{arguments['ranker']}" if "ranker" in arguments else name
    watched = progress_mode() == "events"
    started = time.monotonic()
    follow_run()
    if watched:
        emit("start", step=label)
    try:
        layout, loaded = Layout.at(root), load_config(config)
        loaded.spec.day_number(day)
        with _lock(layout, label, day):
            values = STEPS[name](layout, day, loaded, **arguments)
    except BaseException as error:
        if watched:
            emit("failed", step=label, message=sentence(error))
        raise
    if watched:
        emit("end", step=label, seconds=time.monotonic() - started, values=values)
    return values


def _lock(layout: Layout, label: str, day: str) -> AbstractContextManager[object]:
    """The root's lock, but for a step that only reads, or a root that is not there."""
    if label in READERS or not layout.root.is_dir():
        return nullcontext()
    return writing(layout.root, f"feedsr {label} of {day}")


def sentence(error: BaseException) -> str:
    """An error as one line for people: its own sentence where it has one, else with its type."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename:
        return (
            f"{error.filename}: {error.strerror.lower()}; look at the path, who may write there "
            "and the space that is left"
        )
    if isinstance(error, (*USER_ERRORS, StepError)) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _cover(
    step: DayStep, layout: Layout, day: str, config: DailyConfig, inputs: dict[str, Path]
) -> list[str]:
    """Runs a step on every day up to `day` that it has not covered; returns the days."""
    name = step.__name__
    ledger = Ledger(layout.root / "ledger" / f"{name}.json", config.spec.hash)
    stale = ledger.stale(inputs, day)
    with progress(f"{name}, days", len(stale)) as advance:

        def one(which: str) -> None:
            step(layout, which, config)
            advance()

        ledger.cover(stale, inputs, one)
    return stale


def _ingest(layout: Layout, day: str, config: DailyConfig) -> Values:
    from components.log.counts import refuse_nothing
    from components.log.ingest import ingest

    refuse_day_without_log(layout, day)
    raw = layout.raw_days()
    _refuse_other_log(layout, raw)
    days = _cover(ingest, layout, day, config, {d: layout.raw_day(d) for d in raw})
    refuse_nothing(layout, day)
    counts = [json.loads(layout.ingest_counts(d).read_text()) for d in days]
    total: Values = {"days": len(days)}
    empty = [d for d, c in zip(days, counts, strict=True) if c["read"] and not c["kept"]]
    total["empty"] = ", ".join(empty)
    for name in ("read", "kept", "duplicates", "quarantined", "late"):
        total[name] = sum(_count(c.get(name, 0)) for c in counts)
    total["plan"] = plan(layout, day, config, renew=True).reason
    return total


def refuse_day_without_log(layout: Layout, day: str) -> None:
    """ValueError where a source wrote no log of the day."""
    raw = layout.raw_days()
    if day not in raw:
        have = f"have {raw[0]} to {raw[-1]}" if raw else "there is no log yet"
        raise ValueError(f"no log of {day} under {layout.root / 'raw'}: {have}")


def refuse_first_day(days: list[str], day: str) -> None:
    """ValueError where no earlier day could be trained on."""
    if day <= days[0]:
        raise ValueError(
            f"{day} is the first day of the log: a run ranks its day with a model that was trained "
            "on the days before; choose a later day"
        )


def _refuse_other_log(layout: Layout, raw: list[str]) -> None:
    """Two logs in one root would mix: every later step reads all ingested days."""
    gone = sorted(set(layout.impression_days()) - set(raw))
    if gone:
        raise ValueError(
            f"{layout.root} holds impressions of {gone[0]} that its log no longer has: "
            "a log was replaced by another; use a new root"
        )


def _count(value: Any) -> int:
    """A count, or the sum of counts by reason."""
    return sum(value.values()) if isinstance(value, dict) else int(value)


def _ingested(layout: Layout) -> dict[str, Path]:
    return {d: layout.impressions_day(d) for d in layout.impression_days()}


def _features(layout: Layout, day: str, config: DailyConfig) -> Values:
    from components.features.offline import features

    days = _cover(features, layout, day, config, _ingested(layout))
    return {"days": len(days), "views": len(config.spec.views)}


def _histories(layout: Layout, day: str, config: DailyConfig) -> Values:
    from components.features.histories import histories

    return {"days": len(_cover(histories, layout, day, config, _ingested(layout)))}


def _materialize(layout: Layout, day: str, config: DailyConfig) -> Values:
    from components.features.online import materialize

    materialize(layout, day, config)
    return {"store": config.online_store}


def _sequences(layout: Layout, day: str, config: DailyConfig) -> Values:
    from components.training.sequences import sequences

    refuse_first_day(layout.impression_days() or [day], day)
    chosen = plan(layout, day, config)
    train = sequences(layout, day, config, "train", chosen.after_day, chosen.through_day)
    if not train.targets + train.auxiliary:
        since = f"after {chosen.after_day}" if chosen.after_day else "of the log"
        raise ValueError(
            f"there is nothing to train on: no impression {since} through {chosen.through_day} is "
            "in the log; run a later day, or bring the days that are missing"
        )
    if not sequences(layout, day, config, "eval", chosen.through_day, day).targets:
        raise ValueError(
            f"no timed impression was served on {day}: no model can be judged by that day; "
            "choose another"
        )
    return {"after": chosen.after_day or "", "through": chosen.through_day}


def _train(layout: Layout, day: str, config: DailyConfig, ranker: str) -> Values:
    from components.training.train import train

    chosen = plan(layout, day, config)
    start = chosen.start if ranker == "feed_sr" else chosen.baseline_start
    train(layout, day, config, ranker, start)
    return {"ranker": ranker, "folder": str(layout.model(day, ranker)), "start": str(start or "")}


def _evaluate(layout: Layout, day: str, config: DailyConfig) -> Values:
    from components.evaluation.evaluate import evaluate

    evaluate(layout, day, config)
    metrics = json.loads((layout.run(day) / "metrics.json").read_text())
    task = config.gate.task
    return {
        f"{ranker} {task} AUC": round(body["tasks"][task]["auc"], 4)
        for ranker, body in metrics["rankers"].items()
        if body["tasks"][task]["auc"] is not None
    }


def _gate(layout: Layout, day: str, config: DailyConfig) -> Values:
    from components.registry.gate import gate

    verdict = gate(layout, day, config)
    return {
        "verdict": "passed" if verdict.passed else "refused",
        "because": "; ".join(verdict.reasons),
    }


def _parity(layout: Layout, day: str, config: DailyConfig) -> Values:
    from components.evaluation.parity import parity

    parity(layout, day, config)
    return {"requests": config.parity_requests}


def _register(layout: Layout, day: str, config: DailyConfig) -> Values:
    from components.registry import versions

    return {"version": versions.register(layout, day, config)}


def _promote(layout: Layout, day: str, config: DailyConfig, version: str) -> Values:
    """Never replaces a newer model: an old day that is run again registers and goes no further."""
    from components.registry import versions

    current = versions.current(layout)
    if current is not None and versions.version_record(layout, current)["day"] > day:
        return {"version": current, "kept": f"it is newer than {version}"}
    versions.promote(layout, version)
    return {"version": version}


def _report(layout: Layout, day: str, config: DailyConfig) -> Values:
    """No metrics, no report: a step before the evaluation failed, and its log says why."""
    from components.evaluation.report import report

    metrics = layout.run(day) / "metrics.json"
    # Metrics of an earlier run with another spec have other tasks than the configuration's.
    if not metrics.is_file() or json.loads(metrics.read_text())["spec_hash"] != config.spec.hash:
        return {"report": ""}
    report(layout, day, config)
    return {"report": str(layout.run(day) / "report.html")}


STEPS: dict[str, Callable[..., Values]] = {
    "ingest": _ingest,
    "features": _features,
    "histories": _histories,
    "materialize": _materialize,
    "sequences": _sequences,
    "train": _train,
    "evaluate": _evaluate,
    "gate": _gate,
    "parity": _parity,
    "register": _register,
    "promote": _promote,
    "report": _report,
}
