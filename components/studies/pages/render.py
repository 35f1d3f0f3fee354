# SPDX-License-Identifier: Apache-2.0
"""The tables in a page brought up to date with the results of studies.

A page holds `<!-- table NAME TASK -->`, the table, `<!-- end -->`. What stands between is always
rendered from `study_NAME.json`, never written by hand. NAME with `_short` behind it is a shorter
table of the same results. Knows which study has which table, and no figure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from components.layout.files import atomic_path
from components.studies.pages.tables import (
    ablation_table,
    comparison_table,
    incremental_table,
    leakage_table,
    scaling_table,
    short_comparison_table,
)

MARK = re.compile(r"(<!-- table (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
Table = Callable[[dict[str, Any], str], str]
"""From a study's results and a task to Markdown."""

TABLES: Mapping[str, Table] = {
    "ablate": ablation_table,
    "compare": comparison_table,
    "incremental": incremental_table,
    "scaling": scaling_table,
    "leakage": leakage_table,
}
"""How a study's results are shown, by the study's name."""

SHORT = "_short"
SHORT_TABLES: Mapping[str, Table] = {"compare": short_comparison_table}
"""The same, of the studies that have a shorter form."""


def render(page: Path, results: Path) -> bool:
    """Brings a page's tables up to date; whether anything changed.

    Raises:
        ValueError: the page names a table that there are no results for, or no such form of.
    """

    def table(mark: re.Match[str]) -> str:
        begin, name, task, end = mark.groups()
        return f"{begin}{_table(page, results, name, task)}{end}"

    old = page.read_text()
    new = MARK.sub(table, old)
    if new != old:
        with atomic_path(page) as temporary:
            temporary.write_text(new)
    return new != old


def _table(page: Path, results: Path, name: str, task: str) -> str:
    """The table that a mark of the page asks for."""
    tables = SHORT_TABLES if name.endswith(SHORT) else TABLES
    path = results / f"study_{name.removesuffix(SHORT)}.json"
    if not path.is_file():
        raise ValueError(f"{page} shows the table {name!r}, but there is no {path}")
    whole = json.loads(path.read_bytes())
    if whole["name"] not in tables:
        raise ValueError(
            f"{page} shows the table {name!r}, but of {whole['name']} there is no short table; "
            f"leave {SHORT!r} out"
        )
    return tables[whole["name"]](whole, task)
