# SPDX-License-Identifier: Apache-2.0
"""Results of studies to tables in Markdown, and the tables in a page brought up to date.

A page holds `<!-- table NAME TASK -->`, the table, `<!-- end -->`; what stands between is always
rendered from `benchmarks/results/study_NAME.json`, never written by hand.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.evaluation.evaluate import HISTORY_LENGTHS, segment_name
from components.evaluation.scorecard import compares_within_day
from components.layout.files import atomic_path
from components.studies.contenders import CONTENDERS, OURS, Contender
from components.studies.experiments import ABLATION, REFERENCE, with_references
from components.studies.incremental import METHODS
from components.studies.scaling import Line

NORMAL_95 = 1.96
NEW_MEMBERS = segment_name(*HISTORY_LENGTHS[0])
MARK = re.compile(r"(<!-- table (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
Row = dict[str, Any]
UNMEASURED: Row = {"seeds": {}}
NO_PAIR = (None, None)
"""A difference and its error where there is none."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and the half-width of its 95 % interval; NaN where it is not known."""

    mean: float
    half: float

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        return f"{self.mean:+.4f}" + ("" if math.isnan(self.half) else f" ± {self.half:.4f}")

    @property
    def clear_of_zero(self) -> bool:
        """Whether the interval leaves zero out."""
        return abs(self.mean) > self.half


def difference(row: Row, task: str, kind: str = "difference") -> Interval:
    """The row's AUC above its reference's, over seeds; `kind` "within_difference": within a
    member's day. See `mean_difference`.
    """
    return mean_difference([row], task, kind)


def mean_difference(rows: Sequence[Row], task: str, kind: str = "difference") -> Interval:
    """The mean of several tests' differences over the seeds that all of them have.

    The variance has two parts: which members are in a test, that of the mean where `set_apart` drew
    them once for all seeds, and independent from test to test; and the seed, which averages out.
    """
    seeds = sorted(set.intersection(*(set(row["seeds"]) for row in rows))) if rows else []
    each = [[row["seeds"][seed].get(kind, {}).get(task, NO_PAIR) for row in rows] for seed in seeds]
    found = [pairs for pairs in each if not any(None in pair for pair in pairs)]
    if not found:
        return Interval(math.nan, math.nan)
    means = [_mean([mean for mean, _ in pairs]) for pairs in found]
    members = _mean([sum(error**2 for _, error in pairs) for pairs in found]) / len(rows) ** 2
    return Interval(_mean(means), NORMAL_95 * math.sqrt(members + _variance(means) / len(means)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    """Of a sample; zero for a single value, of which nothing is known."""
    if len(values) < 2:
        return 0.0
    mean = _mean(values)
    return sum((v - mean) ** 2 for v in values) / (len(values) - 1)


def metric(row: Row, task: str, name: str) -> float:
    """A metric's mean over the seeds; NaN where it is undefined."""
    values = [seed["tasks"][task][name] for seed in row["seeds"].values()]
    return _mean(values) if values and None not in values else math.nan


def ablation_table(results: dict[str, Any], task: str) -> str:
    """One line a row: AUC, how far above its reference, percent as the paper has it, the AUC of
    members with fewer than ten known impressions, calibration error, step time.
    """
    rows, papers = in_order(results["rows"]), {e.row: e.paper for e in ABLATION}
    biased = any("position_bias" in seed for row in rows for seed in row["seeds"].values())
    bias = " bias left | position known |" if biased else ""
    lines = [
        f"| part | change | {task} AUC | against its reference | relative | paper | new members "
        f"| ECE | step | seeds |{bias}",
        "|---" * 10 + "|" + ("---|---|" if biased else ""),
    ]
    for row in rows:
        apart = difference(row, task)
        auc = metric(row, task, "auc")
        reference = row["name"] == REFERENCE
        relative = "" if reference else f"{100 * apart.mean / (auc - apart.mean):+.2f} %"
        shown = "reference" if reference else f"**{apart}**" if apart.clear_of_zero else str(apart)
        reported = papers.get(f"{row['part']}: {row['name']}")
        paper = "" if reported is None else f"{reported:+.2f} %"
        step = _mean([seed["step_ms"] for seed in row["seeds"].values()])
        ece = f"{metric(row, task, 'ece'):.4f}"
        new = over_seeds(row, lambda seed: _new_members(seed, task))
        cells = [row["part"], row["name"], f"{auc:.4f}", shown, relative, paper]
        cells += [_number(new, ".4f"), ece, f"{step:.0f} ms"]
        own = f" {_bias(row, task, 'residual')} | {_bias(row, task, 'shown')} |" if biased else ""
        lines.append(f"| {' | '.join(cells)} | {len(row['seeds'])} |{own}")
    return "\n".join(lines) + "\n"


def _new_members(seed: dict[str, Any], task: str) -> float | None:
    """The AUC of the segment that is known least."""
    segment: dict[str, dict[str, float | None]] = seed["segments"].get(NEW_MEMBERS, {})
    return segment.get(task, {}).get("auc")


def _bias(row: Row, task: str, name: str) -> str:
    """A slope of `components.studies.position_bias` over the seeds, and the interval of the
    first."""
    values = [seed["position_bias"][task][name] for seed in row["seeds"].values()]
    mean = over_seeds(row, lambda seed: seed["position_bias"][task][name]["value"])
    return f"{mean:+.2f} ({values[0]['low']:+.2f} to {values[0]['high']:+.2f})"


def in_order(rows: dict[str, Row]) -> list[Row]:
    """The rows as the study declares them; JSON has them by name."""
    declared = [e.row for e in with_references(ABLATION)]
    names = [name for name in declared if name in rows]
    return [rows[name] for name in [*names, *sorted(rows.keys() - set(names))]]


def comparison_table(results: dict[str, Any], task: str) -> str:
    """One line a contender: AUC of the task and of others, against Feed-SR, log loss, costs; below
    them what their titles do not say.
    """
    rows = [(c, results["rows"][c.name]) for c in CONTENDERS if c.name in results["rows"]]
    others = [t for t in ("click", "like") if t != task]
    within = compares_within_day(results["setting"]["config"]["freshness"])
    heads = ["ranker", f"{task} AUC", "Feed-SR is above by", *others]
    heads += ["within a day", "above by"] if within else []
    heads += ["log loss", "ECE", "training", "request", "parameters"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    notes = list(dict.fromkeys(c.note for c, _ in rows if c.note))
    for contender, row in rows:
        cells = [
            contender.title + (_mark(notes, contender.note) if contender.note else ""),
            spread(row, task),
            _ours_above(contender, row, task, "difference"),
            *(_number(metric(row, t, "auc"), ".4f") for t in others),
        ]
        if within:
            cells += [
                _number(over_seeds(row, lambda s: s["within_member"][task]["auc"]), ".4f"),
                _ours_above(contender, row, task, "within_difference"),
            ]
        cells += [
            _number(metric(row, task, "log_loss"), ".4f"),
            _number(metric(row, task, "ece"), ".4f"),
            _number(over_seeds(row, lambda s: s["seconds"]["train"]), ".0f", " s"),
            _number(over_seeds(row, lambda s: s["request_ms"]), ".0f", " ms"),
            _number(over_seeds(row, lambda s: s.get("parameters")) / 1e6, ".2f", " M"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [line for note in notes for line in ("", f"{_mark(notes, note).strip()} {note}")]
    return "\n".join(lines) + "\n"


def _mark(notes: Sequence[str], note: str) -> str:
    """The number that a title has after it and its note before it."""
    return f" <sup>{notes.index(note) + 1}</sup>"


def _ours_above(contender: Contender, row: Row, task: str, kind: str) -> str:
    """How much Feed-SR is above a contender, bold where that is clear of zero; "" for itself."""
    if contender.name == OURS:
        return ""
    apart = difference(row, task, kind)
    above = Interval(-apart.mean, apart.half)
    return f"**{above}**" if above.clear_of_zero else str(above)


def _number(value: float, form: str, unit: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{form}}{unit}"


def spread(row: Row, task: str) -> str:
    """The mean AUC and its standard deviation over seeds."""
    values = [seed["tasks"][task]["auc"] for seed in row["seeds"].values()]
    if None in values or not values:
        return "-"
    deviation = f" ± {math.sqrt(_variance(values)):.4f}" if len(values) > 1 else ""
    return f"{_mean(values):.4f}{deviation}"


def over_seeds(row: Row, value: Callable[[dict[str, Any]], float | None]) -> float:
    """The mean of a value over the seeds; NaN where one has none."""
    found = [value(seed) for seed in row["seeds"].values()]
    known = [v for v in found if v is not None]
    return _mean(known) if found and len(known) == len(found) else math.nan


def incremental_table(results: dict[str, Any], task: str) -> str:
    """One line a day: the AUC of each method, and the seconds of its training; "-" where a study
    that was stopped has none yet.
    """
    rows = results["rows"]
    days = sorted({row["day"] for row in rows.values() if row["method"] in METHODS})
    lines = [f"| day | {' | '.join(METHODS)} | seconds |", "|---" * (len(METHODS) + 2) + "|"]
    for day in days:
        own = [rows.get(f"{day}: {method}", UNMEASURED) for method in METHODS]
        seconds = [over_seeds(row, lambda s: s["train_seconds"]) for row in own]
        cells = [spread(row, task) for row in own]
        taken = ", ".join(_number(s, ".0f") for s in seconds)
        lines.append(f"| {day} | {' | '.join(cells)} | {taken} |")
    means = ["reference"]
    for method in METHODS[1:]:
        names = [f"{day}: {method}" for day in days[1:]]
        apart = mean_difference([rows[name] for name in names if name in rows], task)
        means.append(f"**{apart}**" if apart.clear_of_zero else str(apart))
    lines.append(f"| mean after the first day, against cold | {' | '.join(means)} | |")
    for row in rows.values():
        if row["method"] == "forgetting":
            lost = difference(row, task)
            lines.append(f"| forgotten of {row['day']} by the last day | | {lost} | | | |")
    return "\n".join(lines) + "\n"


def scaling_table(results: dict[str, Any], task: str) -> str:
    """One line a size, fewest operations first, and the fitted line beneath."""
    rows = sorted(
        results["rows"].values(), key=lambda row: over_seeds(row, lambda s: s["training_flops"])
    )
    lines = ["| width | layers | operations of training | AUC |", "|---|---|---|---|"]
    operations, auc = [], []
    for row in rows:
        taken = over_seeds(row, lambda s: s["training_flops"])
        lines.append(f"| {row['width']} | {row['layers']} | {taken:.2e} | {spread(row, task)} |")
        for seed in row["seeds"].values():
            if seed["tasks"][task]["auc"] is not None:
                operations.append(seed["training_flops"])
                auc.append(seed["tasks"][task]["auc"])
    line = Line.fit(operations, auc)
    error = "" if math.isnan(line.slope_error) else f" ± {NORMAL_95 * line.slope_error:.4f}"
    lines += ["", f"{task} AUC rises by {line.slope:.4f}{error} for ten times the operations."]
    return "\n".join(lines) + "\n"


def leakage_table(results: dict[str, Any], task: str) -> str:
    """One line a task, the asked one first: AUCs as reported, served, honest, and what leaked."""
    tasks = sorted(results["tasks"], key=lambda name: name != task)
    truth = results["planted"]
    lines = [
        "| task | reported | served | honest | leaked | recoverable |"
        + (" revealed | planted |" if truth else ""),
        "|---|---|---|---|---|---|" + ("---|---|" if truth else ""),
    ]
    for name in tasks:
        of = results["tasks"][name]
        cells = [name, *(f"{of['auc'][auc]:.4f}" for auc in ("reported", "served", "honest"))]
        cells += [str(_interval(of[apart])) for apart in ("leaked", "recoverable")]
        cells += (
            [f"{truth[name][known]:+.4f}" for known in ("revealed", "planted")] if truth else []
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _interval(found: dict[str, float | None]) -> Interval:
    """What `components.backtest.bootstrap.interval` gave, for the table."""
    value, low, high = (found[name] for name in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return Interval(math.nan, math.nan)
    return Interval(value, (high - low) / 2)


TABLES: dict[str, Callable[[dict[str, Any], str], str]] = {
    "ablate": ablation_table,
    "compare": comparison_table,
    "incremental": incremental_table,
    "scaling": scaling_table,
    "leakage": leakage_table,
}
"""How a study's results are shown, by the study's name."""


def render(page: Path, results: Path) -> bool:
    """Brings a page's tables up to date; whether anything changed.

    Raises:
        ValueError: the page names a table that there are no results for.
    """

    def table(mark: re.Match[str]) -> str:
        begin, name, task, end = mark.groups()
        path = results / f"study_{name}.json"
        if not path.is_file():
            raise ValueError(f"{page} shows the table {name!r}, but there is no {path}")
        whole = json.loads(path.read_bytes())
        return f"{begin}{TABLES[whole['name']](whole, task)}{end}"

    old = page.read_text()
    new = MARK.sub(table, old)
    if new != old:
        with atomic_path(page) as temporary:
            temporary.write_text(new)
    return new != old
