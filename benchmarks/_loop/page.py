# SPDX-License-Identifier: Apache-2.0
"""docs/scale.md's tables and picture, rendered from the newest record of the loop's benchmark.

What stands between `<!-- loop NAME -->` and `<!-- end -->` is never written by hand. Measures and
estimates nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks._loop.figures import COMPARED, compared_cpu_s
from benchmarks._loop.units import DAYS, EXECUTOR_CORES, Record, cases, estimate, units
from components.layout.files import atomic_path

MARK = re.compile(r"(<!-- loop (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
NOTHING = "not measured\n"
CODES = ("before", "after")
TIB = 2**40


def render(page: Path, record: Record) -> None:
    """Brings a page's tables up to date.

    Raises:
        ValueError: the page names a table that there is none of.
    """

    def table(mark: re.Match[str]) -> str:
        begin, name, end = mark.groups()
        if name not in TABLES:
            raise ValueError(f"{page} shows {name!r}; there are {', '.join(TABLES)}")
        return f"{begin}{TABLES[name](record)}{end}"

    text = MARK.sub(table, page.read_text())
    with atomic_path(page) as temporary:
        temporary.write_text(text)


def newest(folder: Path) -> dict[str, Any]:
    """The record of the latest date; ValueError where there is none."""
    paths = sorted(folder.glob("loop_*.json"), key=lambda p: p.stem.rpartition("_")[2])
    if not paths:
        raise ValueError(f"{folder} holds no loop_*.json; run benchmarks.loop with --save first")
    return dict(json.loads(paths[-1].read_text()))


def _rows(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table; what says "not measured" where it has no row."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    if not lines:
        return NOTHING
    names = list(head)
    return "\n".join(["| " + " | ".join(names) + " |", "|---" * len(names) + "|", *lines, ""])


def _steps(kind: str, name: str, label: Callable[[Mapping[str, Any]], str]) -> Callable[..., str]:
    """A table of the last day's steps, by case and code."""

    def table(record: Record) -> str:
        results = [(r, code) for code in CODES for r in cases(record, kind, code)]
        results.sort(key=lambda pair: pair[0]["setting"]["impressions"])
        steps = ("ingest", *COMPARED, "sequences")
        rows = []
        for result, code in results:
            cells = [_cpu(result, f"day:{step}") for step in steps]
            peak = f"{result['facts']['peak_mib']:,.0f}"
            rows.append([label(result["setting"]), code, *cells, _sum(result), peak])
        return _rows([name, "code", *steps, "the three", "peak MiB"], rows)

    return table


def _cpu(result: Mapping[str, Any], label: str) -> str:
    cost = result["facts"]["steps"].get(label)
    if cost is None:
        return ""
    return "died" if cost["died"] else f"{cost['cpu_s']:.1f}"


def _sum(result: Mapping[str, Any]) -> str:
    total = compared_cpu_s(result["facts"])
    return "" if total is None else f"{total:.1f}"


def _deaths(record: Record) -> str:
    rows = [
        [f"{r['setting']['impressions']:,} in {r['setting']['days']} days", r["setting"]["code"],
         name, f"{cost['peak_mib']:,.0f}", cost["died"].replace("|", "/")]
        for r in record["results"]
        for name, cost in r["facts"]["steps"].items()
        if cost["died"]
    ]  # fmt: skip
    return _rows(["log", "code", "step", "peak MiB", "its last words"], rows)


def _backfill(record: Record) -> str:
    rows = []
    for kind in ("impressions", "days"):
        for code in CODES:
            for r in cases(record, kind, code):
                setting = r["setting"]
                exponent = r["ratios"].get("backfill_exponent", "")
                cost = r["facts"].get("backfill_cpu_s", "died")
                log = [f"{setting['impressions']:,}", setting["days"]]
                rows.append([*log, code, cost, exponent])
    return _rows(["impressions", "days", "code", "CPU-s", "exponent"], rows)


def _ratios(record: Record) -> str:
    rows = []
    for code in CODES:
        for r in cases(record, "days", code)[1:]:
            ratio = r["ratios"].get("day_over_first", "one died")
            rows.append([r["setting"]["days"], code, ratio])
    return _rows(["days of log", "code", "the last day's three over those of the first row"], rows)


def _members(record: Record) -> str:
    rows = []
    for code in CODES:
        for r in cases(record, "members", code):
            for name, cost in r["facts"]["steps"].items():
                took = [f"{cost['cpu_s']:,.1f}", f"{cost['wall_s']:,.1f}"]
                took = ["died", ""] if cost["died"] else took
                rate = _rate(r) if name == "alone:online" else ""
                cells = [_what(name), *took, f"{cost['peak_mib']:,.0f}", rate]
                rows.append([f"{r['setting']['members']:,}", code, *cells])
    return _rows(["members", "code", "step", "CPU-s", "s", "peak MiB", "windows a second"], rows)


def _what(label: str) -> str:
    """A label of the members' case in words."""
    phase, *store, step = label.split(":")
    if phase == "alone":
        return "windows alone into Redis"
    when = {"backfill": "before", "day": "the day", "all": "all at once"}[phase]
    return f"{when}: {step}" + (f" into {store[0]}" if store else "")


def _engines(record: Record) -> str:
    rows = []
    for r in cases(record, "engines"):
        cells = [_cpu(r, f"day:{step}") for step in ("ingest", "features", "histories")]
        walls = [r["facts"]["steps"][f"day:{s}"]["wall_s"] for s in ("features", "histories")]
        rows.append([f"{r['setting']['impressions']:,}", r["setting"]["engine"], *cells, *walls])
    head = ["impressions", "engine", "ingest CPU-s", "features CPU-s", "histories CPU-s"]
    return _rows([*head, "features s", "histories s"], rows)


def _disk(record: Record) -> str:
    names = ("impressions", "features", "features/history", "state", "feast")
    rows = []
    for code in CODES:
        for r in cases(record, "days", code):
            held = r["facts"]["disk_mib"]
            cells = [f"{held.get(name, 0):,.0f}" for name in names]
            rows.append([r["setting"]["days"], code, *cells])
    return _rows(["days of log", "code", "impressions", "other features", "windows", "state",
                  "online"], rows)  # fmt: skip


def _units(record: Record) -> str:
    rows = [
        [unit.step, unit.per, f"{unit.cpu_us:,.1f}", f"{unit.bytes:,.0f}", unit.source]
        for unit in units(record)
    ]
    return _rows(["step", "for one", "CPU-µs", "bytes read and written", "slope between"], rows)


def _estimates(record: Record) -> str:
    rows = []
    for impressions in DAYS:
        if day := estimate(record, impressions):
            whole = [f"{day.members:,}", f"{day.cpu_hours:,.1f}", f"{day.executors:,}"]
            sizes = [_short(x / TIB) for x in (day.moved, day.windows, day.store)]
            rest = [f"{day.nodes:,}", _short(day.gbit_s), day.longest]
            power = f"10^{round(math.log10(impressions))}"
            rows.append([power, *whole, f"{day.buckets:,}", *sizes, *rest])
    head = ["impressions a day", "members with news", "CPU-hours"]
    head += [f"executors of {EXECUTOR_CORES} cores for an hour", "buckets", "TiB moved"]
    head += ["TiB of windows", "TiB in Redis", "nodes of 64 GiB", "Gbit/s to it", "longest step"]
    return _rows(head, rows)


def _aims(record: Record) -> str:
    """What was wanted of the code after, and what the record has of it."""
    days, sizes = cases(record, "days"), cases(record, "impressions")
    rows = []
    for result in days[1:][-1:]:
        ratio = result["ratios"].get("day_over_first", "died")
        about = f"the last day at {result['setting']['days']} days over the youngest's"
        rows.append([about, "at most 1.25", ratio])
    for results in (days, sizes):
        for result in results[1:][-1:]:
            about = f"exponent of a backfill to {_log(result)}"
            rows.append([about, "at most 1.1", result["ratios"].get("backfill_exponent", "died")])
    for kind in ("days", "impressions", "members"):
        for result in cases(record, kind)[-1:]:
            about = f"largest process in MiB, {_log(result)}"
            rows.append([about, "at most 1,536", f"{result['facts']['peak_mib']:,.0f}"])
    timed = [r for r in cases(record, "members") if "alone:online" in r["facts"]["steps"]]
    rows += [["windows a second into Redis", "at least 1,500", _rate(r)] for r in timed[-1:]]
    return _rows(["what", "wanted", "have"], rows)


def _log(result: Mapping[str, Any]) -> str:
    setting = result["setting"]
    if setting["kind"] == "members":
        return f"{setting['members']:,} members with full windows"
    return f"{setting['impressions']:,} impressions in {setting['days']} days"


def _rate(result: Mapping[str, Any]) -> str:
    cost = result["facts"]["steps"]["alone:online"]
    return "died" if cost["died"] else f"{result['setting']['members'] / cost['inside_s']:,.0f}"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


TABLES: Mapping[str, Callable[[Record], str]] = {
    "aims": _aims,
    "sizes": _steps("impressions", "impressions", lambda s: f"{s['impressions']:,}"),
    "ages": _steps("days", "days of log", lambda s: str(s["days"])),
    "ratios": _ratios,
    "deaths": _deaths,
    "backfill": _backfill,
    "members": _members,
    "engines": _engines,
    "disk": _disk,
    "units": _units,
    "estimates": _estimates,
}
"""The tables by the names that the page's marks have."""
