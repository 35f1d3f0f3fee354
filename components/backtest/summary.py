# SPDX-License-Identifier: Apache-2.0
"""What several seeds of a backtest say together: means, spreads, and each one's own numbers.

Reads the seeds' results alone; knows no model and no shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Result = dict[str, Any]
METRICS = ("auc", "log_loss", "ece")
COUNTS = ("n", "positives")


def summarize(seeds: Sequence[Result], tasks: Sequence[str], *, within_member: bool) -> Result:
    """The seeds' figures together.

    Args:
        seeds: of each its number, the scorecard of each ranker, and the seconds it took.
        tasks: names of the tasks.
        within_member: whether AUCs within a member's day say something.
    """
    scorecards, first = [seed["rankers"] for seed in seeds], seeds[0]["rankers"]
    tables = {name: [card[name]["tasks"] for card in scorecards] for name in first}
    return {
        "rankers": {
            name: {task: _means([table[task] for table in each]) for task in tasks}
            for name, each in tables.items()
        },
        "spread": {
            name: {task: _spreads([table[task] for table in each]) for task in tasks}
            for name, each in tables.items()
        },
        "segments": {name: card["segments"] for name, card in first.items()},
        "within_member": _within(first) if within_member else None,
        "seeds": [_own_numbers(seed) for seed in seeds],
        "seconds": {str(seed["seed"]): seed["seconds"] for seed in seeds},
    }


def _within(scorecards: Result) -> Result:
    return {name: card["within_member"] for name, card in scorecards.items()}


def _own_numbers(seed: Result) -> Result:
    tables = {name: card["tasks"] for name, card in seed["rankers"].items()}
    return {"seed": seed["seed"], "rankers": tables}


def _means(figures: Sequence[Result]) -> Result:
    return {metric: _mean([seed[metric] for seed in figures]) for metric in (*METRICS, *COUNTS)}


def _spreads(figures: Sequence[Result]) -> Result:
    return {metric: _spread([seed[metric] for seed in figures]) for metric in METRICS}


def _mean(values: Sequence[Any]) -> Any:
    """The mean; a count that is the same everywhere stays a whole number; None if one is None."""
    if any(value is None for value in values):
        return None
    return values[0] if len(set(values)) == 1 else float(np.mean(values))


def _spread(values: Sequence[Any]) -> float | None:
    """The standard deviation; None of a single value, or if one is None."""
    if len(values) < 2 or any(value is None for value in values):
        return None
    return float(np.std(values, ddof=1))
