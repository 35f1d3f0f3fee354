# SPDX-License-Identifier: Apache-2.0
"""What a root keeps under a declared retention, and which features a run joins in time.

It knows plans, versions and the names of days; it removes nothing but the notes by which a step
takes its days for done.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from components.layout.paths import Layout
from components.log.checks import MAX_LATE_DAYS
from components.loop.ledger import Ledger
from components.registry import versions
from components.registry.records import Plan
from components.registry.run import Run
from feature_repo.spec import Spec

EVERY_DAY = ""
"""The first day that is needed, where all are: it is before each."""


@dataclass(frozen=True, kw_only=True)
class Retention:
    """What stays.

    Attributes:
        first_day: runs, sequences and requests of this day and later ones stay; at the latest the
            day of the newest run.
        features_from: so do the day files of features; `EVERY_DAY` where all stay.
        model_days: the days whose models stay, whatever their age: a later run starts from them.
        why: a sentence for each thing that is kept longer than was asked.
    """

    first_day: str
    features_from: str
    model_days: frozenset[str]
    why: tuple[str, ...]


def retention(layout: Layout, spec: Spec, keep_days: int) -> Retention:
    """What stays where the last `keep_days` days of the log are kept, and what is needed beyond.

    Raises:
        ValueError: nothing was ingested, or a version that serves or may serve is damaged.
    """
    days = layout.impression_days()
    if not days:
        raise ValueError(f"{layout.root} has no ingested day, so there is nothing to prune")
    span = spec.day_number(days[-1]) - spec.day_number(days[0])
    asked = spec.days_after(days[-1], -min(keep_days - 1, span))
    first = min([asked, *_run_days(layout)[-1:]])
    need, why = min(_features_needed(layout, spec), default=(first, ""))
    return Retention(
        first_day=first,
        features_from=min(first, need),
        model_days=frozenset(_model_days(layout, first)),
        why=(why,) if need < first else (),
    )


def joined_from(after_day: str | None, spec: Spec) -> str:
    """The first day at whose times a run joins features.

    Args:
        after_day: its watermark, None of a cold start.
        spec: one that fuses context early joins it at every impression of a window.
    """
    if after_day is None or spec.fused_early:
        return EVERY_DAY
    # It was served before the watermark, and arrived two days after it or later (`mark_loss`).
    return spec.days_after(after_day, 2 - MAX_LATE_DAYS)


def pruned_through(layout: Layout, spec: Spec) -> str:
    """The day whose files of features hold those of all days before; "" where each day has its."""
    first = layout.impression_days()[:1]
    begins = [min(feature_days(layout, view.name), default="") for view in spec.views]
    return max((day for day in begins if first and day > first[0]), default="")


def refuse_pruned(layout: Layout, day: str, spec: Spec, after_day: str | None) -> None:
    """ValueError where a day's run joins features of days that were pruned."""
    pruned = pruned_through(layout, spec)
    if pruned and joined_from(after_day, spec) <= pruned:
        raise ValueError(
            f"the run of {day} joins features of days through {pruned}, which were pruned; run "
            f"feedsr features --day {day} first, which makes them anew from the log"
        )


def bring_back(layout: Layout, spec: Spec) -> None:
    """Lets the next `features` make every day anew from the log, as if none was done."""
    (layout.root / "ledger" / "features.json").unlink(missing_ok=True)
    # A state that is further on would have each of the days counted at once.
    for name in (*(view.name for view in spec.views), "unknown_posts"):
        shutil.rmtree(layout.state(name), ignore_errors=True)


def feature_days(layout: Layout, view: str) -> list[str]:
    """The days of which a view has a file, in order."""
    return sorted(path.stem[4:] for path in layout.feature_dir(view).glob("day=*.parquet"))


def _features_needed(layout: Layout, spec: Spec) -> Iterator[tuple[str, str]]:
    """From which day on who needs features, as a sentence."""
    if spec.fused_early:
        yield EVERY_DAY, "features are kept: the spec joins them at every impression of a window"
        return
    yield from _built(layout, spec)
    in_use, newest = versions.in_use(layout), _newest_run(layout)
    for version in in_use:
        after = spec.days_after(versions.version_record(layout, version).day, -1)
        since = joined_from(after, spec)
        why = f"a run that goes on from {version} takes what came up to {MAX_LATE_DAYS} days late"
        yield since, f"features are kept from {since} on: {why}"
    trained = max((versions.version_record(layout, v).day for v in in_use), default="")
    if newest and newest.day > trained:
        since = joined_from(newest.after_day, spec)
        cold = "" if newest.after_day else " cold"
        yield since, f"features are kept: the run of {newest.day} starts{cold}, and is not promoted"
    elif not trained:
        yield EVERY_DAY, "features are kept: the next run starts cold, as no model is in production"


def _built(layout: Layout, spec: Spec) -> Iterator[tuple[str, str]]:
    """The newest day of each view, which the next goes on from; all where one is to be made."""
    inputs = {day: layout.impressions_day(day) for day in layout.impression_days()}
    last = min(max(feature_days(layout, view.name), default="") for view in spec.views)
    if not last:
        return
    yield last, f"features are kept from {last} on: the next day goes on from it"
    ledger = Ledger(layout.root / "ledger" / "features.json", spec.hash)
    if ledger.stale(inputs, last) != [last]:
        yield EVERY_DAY, "features are kept: some are to be made anew; run feedsr features first"


def _newest_run(layout: Layout) -> Plan | None:
    days = _run_days(layout)
    return Run(layout, days[-1]).plan if days else None


def _run_days(layout: Layout) -> list[str]:
    """The days that were planned, in order."""
    return sorted(path.parent.name for path in layout.root.glob(f"runs/*/{Plan.file}"))


def _model_days(layout: Layout, first: str) -> Iterator[str]:
    """The days whose models a run starts from: one after those in use, or one that stays."""
    for version in versions.in_use(layout):
        yield versions.version_record(layout, version).day
    for day in _run_days(layout):
        start = Run(layout, day).plan.baseline_start if day >= first else None
        if start is not None:
            yield start.parent.name
