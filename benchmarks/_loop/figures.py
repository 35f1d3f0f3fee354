# SPDX-License-Identifier: Apache-2.0
"""What was measured of a case as a benchmark's result, and how costs grow from case to case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks._loop.cases import Bench, Case, Code
from benchmarks._record import Result

DAY = "day"
COMPARED = ("features", "histories", "materialize")
"""The steps whose sum is a day's cost, by the design."""


def result(case: Case, code: Code, bench: Bench) -> Result:
    """A case's result: wall milliseconds by step, and everything else among the facts."""
    facts: dict[str, Any] = {"steps": {name: cost.as_dict() for name, cost in bench.costs.items()}}
    facts |= {
        "commit": code.commit,
        **bench.facts,
        "peak_mib": max(c.peak_mib for c in bench.costs.values()),
    }
    for phase in ("backfill", DAY):
        costs = [c for name, c in bench.costs.items() if name.startswith(f"{phase}:")]
        if costs and not any(c.died for c in costs):
            facts[f"{phase}_cpu_s"] = round(sum(c.cpu_s for c in costs), 2)
    return Result(
        setting={**case.setting, "code": code.name},
        median_ms={name: 1e3 * cost.wall_s for name, cost in bench.costs.items()},
        ratios={},
        facts=facts,
    )


def compared_cpu_s(facts: dict[str, Any]) -> float | None:
    """CPU seconds of the last day's features, histories and materialize; None if one died."""
    costs = [facts["steps"].get(f"{DAY}:{step}") for step in COMPARED]
    if any(cost is None or cost["died"] for cost in costs):
        return None
    return float(sum(cost["cpu_s"] for cost in costs if cost))


def growth(results: Sequence[Result]) -> list[Result]:
    """The results, each with what it costs over the first of its kind and code."""
    firsts: dict[tuple[str, str], Result] = {}
    grown = []
    for one in results:
        key = (one.setting["kind"], one.setting["code"])
        first = firsts.setdefault(key, one)
        grown.append(one if first is one else replace(one, ratios=_over(first, one)))
    return grown


def _over(first: Result, one: Result) -> dict[str, float]:
    ratios = {}
    day, day_first = compared_cpu_s(one.facts), compared_cpu_s(first.facts)
    if day and day_first:
        ratios["day_over_first"] = round(day / day_first, 3)
    work, before = one.facts.get("backfill_cpu_s"), first.facts.get("backfill_cpu_s")
    rows = one.setting["impressions"] / first.setting["impressions"]
    if work and before and rows > 1:
        ratios["backfill_exponent"] = round(math.log(work / before) / math.log(rows), 3)
    return ratios
