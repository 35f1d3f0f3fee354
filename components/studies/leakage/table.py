# SPDX-License-Identifier: Apache-2.0
"""The tables of a leakage result, for people. It reads the result's values alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

AUCS = ("reported", "history", "served", "honest", "day")
DIFFERENCES = ("leaked", "recoverable", "net")


def print_tables(result: Mapping[str, Any]) -> None:
    """Prints the AUCs, their differences with intervals, and what was planted, to standard output.

    Args:
        result: as `components.studies.leakage.study.leakage` returns it.
    """
    console, sessions = Console(highlight=False), result["sessions"]
    console.print(_heading(result["settings"], sessions))
    if not sessions["known_cut"]:
        console.print(
            "no impression knew feedback of its session: there is nothing to cut. Where a session "
            "is one request, visits of several are measured with --sessions pause"
        )
    console.print(_aucs(result))
    console.print(_differences(result))


def _heading(settings: Mapping[str, Any], sessions: Mapping[str, Any]) -> str:
    return (
        f"trained before {settings['train_before']}, ranked through {settings['test_through']}; "
        f"{sessions['share_of_many']:.1%} of {sessions['sessions']:,} sessions have several "
        f"impressions, {sessions['share_cut']:.1%} of {sessions['targets']:,} targets knew "
        "feedback of their own"
    )


def _aucs(result: Mapping[str, Any]) -> Table:
    table = _table("AUC", ("task", *AUCS))
    for task, figures in result["tasks"].items():
        table.add_row(task, *(_number(figures["auc"][name]) for name in AUCS))
    return table


def _differences(result: Mapping[str, Any]) -> Table:
    truth = result["planted"]
    columns = ("revealed", "planted") if truth else ()
    title = "AUC differences, ± half of the 95% interval over members"
    table = _table(title, ("task", *DIFFERENCES, *columns))
    for task, figures in result["tasks"].items():
        cells = [_with_interval(figures[name]) for name in DIFFERENCES]
        table.add_row(task, *cells, *(_signed(truth[task][name]) for name in columns))
    return table


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column(columns[0], no_wrap=True)
    for name in columns[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _with_interval(value: Mapping[str, float | None]) -> str:
    low, high = value["low"], value["high"]
    if low is None or high is None:
        return "-"
    return f"{_signed(value['value'])} ±{(high - low) / 2:.4f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
