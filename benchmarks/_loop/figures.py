# SPDX-License-Identifier: Apache-2.0
"""What was measured of a case as a benchmark's result, and how costs grow from case to case."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks._loop.cases import Bench, Case, Code
from benchmarks._loop.measure import files
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
        "disk_mib": disk(bench.root),
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


def disk(root: Path) -> dict[str, float]:
    """MiB that a root holds, by folder; of histories apart from other features."""
    held: Counter[str] = Counter()
    for path, (_, _, size) in files(root).items():
        parts = Path(path).parts
        history = parts[:2] == ("features", "history")
        held["features/history" if history else parts[0]] += size
    return {name: round(size / 2**20, 3) for name, size in sorted(held.items())}


def compared_cpu_s(facts: dict[str, Any]) -> float | None:
    """CPU seconds of the last day's features, histories and materialize; None if one died."""
    costs = [facts["steps"].get(f"{DAY}:{step}") for step in COMPARED]
    if any(cost is None or cost["died"] for cost in costs):
        return None
    return float(sum(cost["cpu_s"] for cost in costs if cost))


def growth(results: Sequence[Result]) -> list[Result]:
    """The results, each with what it costs over others of its kind and code.

    The last day is compared with the first result's, a backfill with that of the one before: at
    small sizes what a process costs at rest would hide how it grows.
    """
    kinds: dict[tuple[str, str], list[Result]] = {}
    grown = []
    for one in results:
        earlier = kinds.setdefault((one.setting["kind"], one.setting["code"]), [])
        ratios = _over(earlier[0], one) | _exponent(earlier[-1], one) if earlier else {}
        grown.append(replace(one, ratios=ratios))
        earlier.append(one)
    return grown


def _over(first: Result, one: Result) -> dict[str, float]:
    day, day_first = compared_cpu_s(one.facts), compared_cpu_s(first.facts)
    return {"day_over_first": round(day / day_first, 3)} if day and day_first else {}


def _exponent(smaller: Result, one: Result) -> dict[str, float]:
    """With which power of the impressions the backfill's CPU grows."""
    work, before = (r.facts.get("backfill_cpu_s") for r in (one, smaller))
    rows = one.setting["impressions"] / smaller.setting["impressions"]
    if not (work and before and rows > 1):
        return {}
    return {"backfill_exponent": round(math.log(work / before) / math.log(rows), 3)}
