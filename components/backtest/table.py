# SPDX-License-Identifier: Apache-2.0
"""The table of a backtest's result, for people. It reads the result's values alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

FIGURES = ("AUC", "log loss", "ECE", "impressions", "positives")


def print_table(result: Mapping[str, Any], tasks: Sequence[str]) -> None:
    """Prints AUC (mean and spread over seeds), log loss and calibration to standard output.

    Args:
        result: as `components.backtest.backtest.backtest` returns it.
        tasks: names of the tasks, in order.
    """
    table = Table(title=_title(result), title_justify="left", box=None, pad_edge=False)
    table.add_column("task")
    table.add_column("ranker")
    for name in FIGURES:
        table.add_column(name, justify="right")
    for task in tasks:
        for number, (ranker, figures) in enumerate(result["rankers"].items()):
            spread = result["spread"][ranker][task]["auc"]
            table.add_row("" if number else task, ranker, *_cells(figures[task], spread))
    Console(highlight=False).print(table)


def _title(result: Mapping[str, Any]) -> str:
    settings = result["settings"]
    return (
        f"trained before {settings['train_before']}, ranked through "
        f"{settings['test_through']}, freshness {settings['config']['freshness']}"
    )


def _cells(figures: Mapping[str, Any], spread: float | None) -> list[str]:
    """What stands under `FIGURES`."""
    auc = _number(figures["auc"]) + (f" ± {spread:.4f}" if spread is not None else "")
    counts = [f"{figures[name]:,}" for name in ("n", "positives")]
    return [auc, _number(figures["log_loss"]), _number(figures["ece"]), *counts]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
