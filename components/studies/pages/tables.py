# SPDX-License-Identifier: Apache-2.0
"""Results of studies to tables in Markdown: a function a study.

Knows what a study's rows hold and what a column is called; not which page shows it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from components.evaluation.evaluate import HISTORY_LENGTHS, segment_name
from components.evaluation.scorecard import compares_within_day
from components.studies.contenders import CONTENDERS, OURS, Contender
from components.studies.experiments import ABLATION, REFERENCE, with_references
from components.studies.incremental import METHODS
from components.studies.pages.intervals import (
    NORMAL_95,
    Interval,
    Row,
    Seed,
    difference,
    mean_difference,
    metric,
    over_seeds,
    spread,
)
from components.studies.scaling import Line

NEW_MEMBERS = segment_name(*HISTORY_LENGTHS[0])
UNMEASURED: Row = {"seeds": {}}
SHORT = ("feed_sr", "dcnv2", "transact", "ligr", "lightgbm")
"""The rankers of the short comparison: of each kind of history the one that tells most."""


def ablation_table(results: dict[str, Any], task: str) -> str:
    """One line a row: its AUC against its reference's, and what else the change did.

    That is percent as the paper has it, the AUC of members with fewer than ten known impressions,
    calibration error, and the milliseconds of a step.
    """
    rows = in_order(results["rows"])
    biased = any("position_bias" in seed for row in rows for seed in row["seeds"].values())
    heads = ["part", "change", f"{task} AUC", "against its reference", "relative", "paper"]
    heads += ["new members", "ECE", "step", "seeds"]
    heads += ["bias left", "position known"] if biased else []
    lines = _header(heads)
    for row in rows:
        cells = _ablation_cells(row, task)
        cells += [_bias(row, task, kind) for kind in ("residual", "shown")] if biased else []
        lines.append(_line(cells))
    return _text(lines)


def _ablation_cells(row: Row, task: str) -> list[str]:
    """What every ablation shows of a row."""
    above, auc = difference(row, task), metric(row, task, "auc")
    is_reference = row["name"] == REFERENCE
    paper = {e.row: e.paper for e in ABLATION}.get(f"{row['part']}: {row['name']}")
    return [
        row["part"],
        row["name"],
        f"{auc:.4f}",
        "reference" if is_reference else above.marked,
        "" if is_reference else f"{100 * above.mean / (auc - above.mean):+.2f} %",
        "" if paper is None else f"{paper:+.2f} %",
        _number(over_seeds(row, lambda seed: _new_members(seed, task)), ".4f"),
        f"{metric(row, task, 'ece'):.4f}",
        _number(over_seeds(row, lambda seed: seed["step_ms"]), ".0f", " ms"),
        str(len(row["seeds"])),
    ]


def _new_members(seed: Seed, task: str) -> float | None:
    """The AUC of the segment that is known least."""
    segment: dict[str, dict[str, float | None]] = seed["segments"].get(NEW_MEMBERS, {})
    return segment.get(task, {}).get("auc")


def _bias(row: Row, task: str, name: str) -> str:
    """A slope of `position_bias` over the seeds, and the interval of the first."""
    values = [seed["position_bias"][task][name] for seed in row["seeds"].values()]
    mean = over_seeds(row, lambda seed: seed["position_bias"][task][name]["value"])
    return f"{mean:+.2f} ({values[0]['low']:+.2f} to {values[0]['high']:+.2f})"


def in_order(rows: dict[str, Row]) -> list[Row]:
    """The rows as the study declares them; JSON has them by name."""
    declared = [e.row for e in with_references(ABLATION)]
    names = [name for name in declared if name in rows]
    return [rows[name] for name in [*names, *sorted(rows.keys() - set(names))]]


def comparison_table(results: dict[str, Any], task: str) -> str:
    """One line a contender: AUC of the task and of others, against Feed-SR, log loss, costs.

    Below them stands what their titles do not say.
    """
    rows = [(c, results["rows"][c.name]) for c in CONTENDERS if c.name in results["rows"]]
    others = [t for t in ("click", "like") if t != task]
    within = compares_within_day(results["setting"]["config"]["freshness"])
    heads = ["ranker", f"{task} AUC", "Feed-SR is above by", *others]
    heads += ["within a day", "above by"] if within else []
    lines = _header([*heads, "log loss", "ECE", "training", "request", "parameters"])
    notes = list(dict.fromkeys(c.note for c, _ in rows if c.note))
    for contender, row in rows:
        title = contender.title + (_mark(notes, contender.note) if contender.note else "")
        cells = [title, spread(row, task), _ours_above(contender, row, task)]
        cells += [_number(metric(row, t, "auc"), ".4f") for t in others]
        cells += _within_a_day(contender, row, task) if within else []
        lines.append(_line([*cells, *_costs(row, task)]))
    lines += [line for note in notes for line in ("", f"{_mark(notes, note).strip()} {note}")]
    return _text(lines)


def short_comparison_table(results: dict[str, Any], task: str) -> str:
    """The comparison for a reader in a hurry: a few rankers, AUC, against Feed-SR, a request."""
    lines = _header(["ranker", f"{task} AUC", "Feed-SR is above by", "request"])
    for contender in CONTENDERS:
        if contender.name in SHORT and contender.name in results["rows"]:
            row = results["rows"][contender.name]
            above = _ours_above(contender, row, task)
            lines.append(_line([contender.title, spread(row, task), above, _request(row)]))
    return _text(lines)


def _within_a_day(contender: Contender, row: Row, task: str) -> list[str]:
    """The AUC within a member's day, and how far Feed-SR's is above."""
    auc = over_seeds(row, lambda seed: seed["within_member"][task]["auc"])
    return [_number(auc, ".4f"), _ours_above(contender, row, task, "within_difference")]


def _costs(row: Row, task: str) -> list[str]:
    """Log loss and calibration error, seconds of training, a request, parameters."""
    return [
        _number(metric(row, task, "log_loss"), ".4f"),
        _number(metric(row, task, "ece"), ".4f"),
        _number(over_seeds(row, lambda seed: seed["seconds"]["train"]), ".0f", " s"),
        _request(row),
        _number(over_seeds(row, lambda seed: seed.get("parameters")) / 1e6, ".2f", " M"),
    ]


def _request(row: Row) -> str:
    return _number(over_seeds(row, lambda seed: seed["request_ms"]), ".0f", " ms")


def _mark(notes: Sequence[str], note: str) -> str:
    """The number that a title has after it and its note before it."""
    return f" <sup>{notes.index(note) + 1}</sup>"


def _ours_above(contender: Contender, row: Row, task: str, kind: str = "difference") -> str:
    """How much Feed-SR is above a contender, bold where that is clear of zero; "" for itself."""
    return "" if contender.name == OURS else (-difference(row, task, kind)).marked


def incremental_table(results: dict[str, Any], task: str) -> str:
    """One line a day: the AUC of each method, and the seconds of its training.

    Where a study that was stopped has none yet, there is "-".
    """
    rows = results["rows"]
    days = sorted({row["day"] for row in rows.values() if row["method"] in METHODS})
    lines = _header(["day", *METHODS, "seconds"])
    for day in days:
        measured = [rows.get(f"{day}: {method}", UNMEASURED) for method in METHODS]
        seconds = [over_seeds(row, lambda seed: seed["train_seconds"]) for row in measured]
        taken = ", ".join(_number(s, ".0f") for s in seconds)
        lines.append(_line([day, *(spread(row, task) for row in measured), taken]))
    means = ["reference", *(_mean_against_cold(rows, days, method, task) for method in METHODS[1:])]
    lines.append(f"| mean after the first day, against cold | {' | '.join(means)} | |")
    for row in rows.values():
        if row["method"] == "forgetting":
            lost = difference(row, task)
            lines.append(f"| forgotten of {row['day']} by the last day | | {lost} | | | |")
    return _text(lines)


def _mean_against_cold(rows: dict[str, Row], days: Sequence[str], method: str, task: str) -> str:
    """How far a method is above *cold*, over the days after the first."""
    names = [f"{day}: {method}" for day in days[1:]]
    return mean_difference([rows[name] for name in names if name in rows], task).marked


def scaling_table(results: dict[str, Any], task: str) -> str:
    """One line a size, fewest operations first, and the fitted line beneath."""
    rows = [
        (over_seeds(row, lambda seed: seed["training_flops"]), row)
        for row in results["rows"].values()
    ]
    lines = _header(["width", "layers", "operations of training", "AUC"])
    points: list[tuple[float, float]] = []
    for taken, row in sorted(rows, key=lambda pair: pair[0]):
        cells = [str(row["width"]), str(row["layers"]), f"{taken:.2e}", spread(row, task)]
        lines.append(_line(cells))
        aucs = [(s["training_flops"], s["tasks"][task]["auc"]) for s in row["seeds"].values()]
        points += [(operations, auc) for operations, auc in aucs if auc is not None]
    line = Line.fit([operations for operations, _ in points], [auc for _, auc in points])
    error = "" if math.isnan(line.slope_error) else f" ± {NORMAL_95 * line.slope_error:.4f}"
    lines += ["", f"{task} AUC rises by {line.slope:.4f}{error} for ten times the operations."]
    return _text(lines)


def leakage_table(results: dict[str, Any], task: str) -> str:
    """One line a task, the asked one first: AUCs as reported, served, honest, and what leaked."""
    tasks = sorted(results["tasks"], key=lambda name: name != task)
    truth = results["planted"]
    known = ("revealed", "planted") if truth else ()
    aucs, differences = ("reported", "served", "honest"), ("leaked", "recoverable")
    lines = _header(["task", *aucs, *differences, *known])
    for name in tasks:
        figures = results["tasks"][name]
        cells = [name, *(f"{figures['auc'][auc]:.4f}" for auc in aucs)]
        cells += [str(_interval(figures[column])) for column in differences]
        cells += [f"{truth[name][column]:+.4f}" for column in known]
        lines.append(_line(cells))
    return _text(lines)


def _interval(bounds: dict[str, float | None]) -> Interval:
    """What `bootstrap.interval` gave, for the table."""
    value, low, high = (bounds[name] for name in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return Interval(math.nan, math.nan)
    return Interval(value, (high - low) / 2)


def _number(value: float, form: str, unit: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{form}}{unit}"


def _header(heads: Sequence[str]) -> list[str]:
    """The first two lines of a table."""
    return [_line(heads), "|---" * len(heads) + "|"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"
