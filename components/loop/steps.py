# SPDX-License-Identifier: Apache-2.0
"""What each step of the daily loop runs: the step's own function over the days it must cover.

The one place that knows the loop's order, which days are still missing from a step's output (a
first run backfills, a killed one goes on), and what a step reports. It computes nothing itself and
imports each step only when that step runs, because Feast and torch cost seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

from components.config import DailyConfig, load_config
from components.console import emit, progress, progress_mode
from components.layout.paths import Layout
from components.layout.writer import follow_run, writing
from components.loop.errors import sentence
from components.loop.ledger import Ledger
from components.loop.refusals import refuse_day_without_log, refuse_first_day, refuse_other_log
from components.loop.retention import bring_back, joined_from, pruned_through, refuse_pruned
from components.registry.gate import CANDIDATE
from components.registry.metrics import DayMetrics
from components.registry.plan import plan
from components.registry.run import Run

T = TypeVar("T")
Values = dict[str, str | int | float]
"""What a step reports of itself, for artifacts and people."""

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


def run_step(name: str, root: str, day: str, config: str, **arguments: str) -> Values:
    """Runs one step and tells whoever watches when it starts, ends or fails.

    Args:
        name: a step of `STEPS`.
        root: the run's root.
        day: the as-of day, YYYY-MM-DD.
        config: a shipped configuration's name or a JSON file.
        arguments: the step's own: `ranker` of train, `version` of promote.

    Returns:
        What was done.

    Raises:
        ValueError, OSError: the step's own, or another run writes into the root; after it was told.
    """
    label = f"{name}-{arguments['ranker']}" if "ranker" in arguments else name
    follow_run()
    with _told(label) as values:
        layout, loaded = Layout.at(root), load_config(config)
        loaded.spec.day_number(day)
        with _lock(layout, label, day):
            values |= STEPS[name](layout, day, loaded, **arguments)
    return values


@contextmanager
def _told(label: str) -> Iterator[Values]:
    """Events around a block for whoever reads this process's output; the block fills the values."""
    watched, started = progress_mode() == "events", time.monotonic()
    values: Values = {}
    if watched:
        emit("start", step=label)
    try:
        yield values
    except BaseException as error:
        if watched:
            emit("failed", step=label, message=sentence(error))
        raise
    if watched:
        emit("end", step=label, seconds=time.monotonic() - started, values=values)


def _lock(layout: Layout, label: str, day: str) -> AbstractContextManager[object]:
    """The root's lock, but for a step that only reads, or a root that is not there."""
    if label in READERS or not layout.root.is_dir():
        return nullcontext()
    return writing(layout.root, f"feedsr {label} of {day}")


def _cover(
    step: Callable[[Layout, str, DailyConfig], T],
    layout: Layout,
    day: str,
    config: DailyConfig,
    inputs: Mapping[str, Path],
) -> dict[str, T]:
    """Runs a step on every day up to `day` that it has not covered; what it gave, by day."""
    name = step.__name__
    ledger = Ledger(layout.root / "ledger" / f"{name}.json", config.spec.hash)
    stale = ledger.stale(inputs, day)
    with progress(f"{name}, days", len(stale)) as advance:

        def on_day(which: str) -> T:
            result = step(layout, which, config)
            advance()
            return result

        return ledger.cover(stale, inputs, on_day)


def _ingest(layout: Layout, day: str, config: DailyConfig) -> Values:
    from components.log.counts import refuse_nothing, total
    from components.log.ingest import ingest

    refuse_day_without_log(layout, day)
    refuse_other_log(layout)
    raw = {d: layout.raw_day(d) for d in layout.raw_days()}
    counts = _cover(ingest, layout, day, config, raw)
    refuse_nothing(layout, counts[day])
    return {
        "days": len(counts),
        "empty": ", ".join(d for d, c in counts.items() if c.read and not c.kept),
        **total(counts.values()),
        "late": sum(c.late for c in counts.values()),
        "plan": plan(layout, day, config, renew=True).reason,
    }


def _ingested(layout: Layout) -> dict[str, Path]:
    return {d: layout.impressions_day(d) for d in layout.impression_days()}


def _features(layout: Layout, day: str, config: DailyConfig) -> Values:
    from components.features.offline import features

    again = _brought_back(layout, day, config)
    days = _cover(features, layout, day, config, _ingested(layout))
    return {"days": len(days), "views": len(config.spec.views), **again}


def _brought_back(layout: Layout, day: str, config: DailyConfig) -> Values:
    """Has features of pruned days made anew where the day's run joins them; says why."""
    pruned = pruned_through(layout, config.spec)
    chosen = plan(layout, day, config) if pruned else None
    if chosen is None or joined_from(chosen.after_day, config.spec) > pruned:
        return {}
    bring_back(layout, config.spec)
    return {"made anew": f"the days through {pruned}, which were pruned: {chosen.reason}"}


def _histories(layout: Layout, day: str, config: DailyConfig) -> Values:
    from components.features.histories import histories

    return {"days": len(_cover(histories, layout, day, config, _ingested(layout)))}


def _materialize(layout: Layout, day: str, config: DailyConfig) -> Values:
    from feature_repo.opening import load_feast

    load_feast()  # before anything imports it as a whole
    from components.features.online import materialize

    materialize(layout, day, config)
    return {"store": config.online_store}


def _sequences(layout: Layout, day: str, config: DailyConfig) -> Values:
    from components.training.sequences import sequences

    refuse_first_day(layout.impression_days() or [day], day)
    chosen = plan(layout, day, config)
    refuse_pruned(layout, day, config.spec, chosen.after_day)
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
    start = chosen.start if ranker == CANDIDATE else chosen.baseline_start
    train(layout, day, config, ranker, start)
    return {"ranker": ranker, "folder": str(layout.model(day, ranker)), "start": str(start or "")}


def _evaluate(layout: Layout, day: str, config: DailyConfig) -> Values:
    from components.evaluation.evaluate import evaluate

    task, rankers = config.gate.task, evaluate(layout, day, config).rankers
    aucs = {name: rankers[name].tasks[task].auc for name in sorted(rankers)}
    return {f"{name} {task} AUC": round(auc, 4) for name, auc in aucs.items() if auc is not None}


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
    if current is not None and versions.version_record(layout, current).day > day:
        return {"version": current, "kept": f"it is newer than {version}"}
    versions.promote(layout, version)
    return {"version": version}


def _report(layout: Layout, day: str, config: DailyConfig) -> Values:
    """No metrics, no report: a step before the evaluation failed, and its log says why."""
    from components.evaluation.report import report

    run = Run(layout, day)
    # Metrics of an earlier run with another spec have other tasks than the configuration's.
    if not run.holds(DayMetrics) or run.metrics.spec_hash != config.spec.hash:
        return {"report": ""}
    return {"report": str(report(layout, day, config))}


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
