# SPDX-License-Identifier: Apache-2.0
"""From what was measured to what larger days take: unit costs, and their multiples.

A unit cost is a slope between two measured cases, so that what a process costs at rest is left out.
Nothing is estimated that has no slope. Knows no page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NEWS = 10
"""Impressions of an active member a day, as in the measured members' day."""
HOURS = 1.0
"""In which a day's batch is to be through."""
EXECUTOR_CORES = 4
STORE_NODE = 64 * 2**30
"""Memory of a node of the online store, in bytes."""
DAYS = (10**7, 10**9, 10**10)
"""Impressions of the days that are estimated."""

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What one more of something costs a step.

    Attributes:
        step: of the loop.
        per: "impression" or "member".
        cpu_us: microseconds of CPU.
        bytes: that are read and written.
        source: the two measurements that it is the slope between.
    """

    step: str
    per: str
    cpu_us: float
    bytes: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Day:
    """What a day of so many impressions takes.

    Attributes:
        members: with news, each of which has a full window.
        cpu_hours: of all steps.
        executors: of `EXECUTOR_CORES` cores, to be through in `HOURS`.
        moved: bytes that the steps read and write.
        windows: bytes of the members' windows, offline.
        store: bytes of them in Redis.
        nodes: of the online store.
        gbit_s: to the online store, where all windows are written in `HOURS`.
        buckets: whose rows of the day are as many as a bucket's of the largest measured case.
        longest: the step that takes most of it.
    """

    impressions: int
    members: int
    cpu_hours: float
    executors: int
    moved: float
    windows: float
    store: float
    nodes: int
    gbit_s: float
    buckets: int
    longest: str


def cases(record: Record, kind: str, code: str = "after") -> list[dict[str, Any]]:
    """A record's results of a kind and a code, smallest first."""
    results = [
        r for r in record["results"] if (r["setting"]["kind"], r["setting"]["code"]) == (kind, code)
    ]
    return sorted(results, key=lambda r: (r["setting"]["impressions"], r["setting"]["engine"]))


def units(record: Record) -> list[Unit]:
    """The unit costs of a record; of a step that died or was measured once, none."""
    sizes, members = cases(record, "impressions"), cases(record, "members")
    per_row = [(step, step) for step in ("ingest", "features", "sequences")]
    online = "redis" if any("day:redis:materialize" in r["facts"]["steps"] for r in members) else ""
    per_member = [("histories", "histories")]
    per_member += [("materialize", f"{online}:materialize")] if online else []
    made = [_slope(sizes, *names, "impression") for names in per_row]
    made += [_slope(members, *names, "member") for names in per_member]
    return [unit for unit in made if unit]


def _slope(results: Sequence[Any], step: str, label: str, per: str) -> Unit | None:
    """The slope between the smallest and the largest case in which the step lived."""
    lived = [r for r in results if _lived(r, label)]
    if len(lived) < 2:
        return None
    first, last = lived[0], lived[-1]
    more = _amount(last, per) - _amount(first, per)
    old, new = (r["facts"]["steps"][f"day:{label}"] for r in (first, last))
    sizes = [
        r["setting"]["impressions" if per == "impression" else "members"] for r in (first, last)
    ]
    return Unit(
        step=step,
        per=per,
        cpu_us=1e6 * (new["cpu_s"] - old["cpu_s"]) / more,
        bytes=2**20 * (_moved(new) - _moved(old)) / more,
        source=f"{sizes[0]:,} and {sizes[1]:,} {per}s",
    )


def _lived(result: Any, label: str) -> bool:
    cost = result["facts"]["steps"].get(f"day:{label}")
    return cost is not None and not cost["died"]


def _amount(result: Any, per: str) -> float:
    setting = result["setting"]
    return float(
        setting["members"] if per == "member" else setting["impressions"] / setting["days"]
    )


def _moved(cost: Mapping[str, Any]) -> float:
    return float(cost["read_mib"] + sum(cost["written_mib"].values()))


def estimate(record: Record, impressions: int) -> Day | None:
    """What a day of so many impressions takes; None where the members were not measured twice."""
    costs, members = units(record), impressions // NEWS
    full = cases(record, "members")
    if not full or not {"histories", "materialize"} <= {unit.step for unit in costs}:
        return None
    amounts = {"impression": impressions, "member": members}
    seconds = {unit.step: 1e-6 * unit.cpu_us * amounts[unit.per] for unit in costs}
    setting, facts = full[-1]["setting"], full[-1]["facts"]
    each = facts["disk_mib"]["features/history"] * 2**20 / setting["members"]
    kept = facts["redis_mib"] * 2**20 / setting["members"]
    cores = sum(seconds.values()) / 3600 / HOURS
    return Day(
        impressions=impressions,
        members=members,
        cpu_hours=sum(seconds.values()) / 3600,
        executors=math.ceil(cores / EXECUTOR_CORES),
        moved=sum(unit.bytes * amounts[unit.per] for unit in costs),
        windows=each * members,
        store=kept * members,
        nodes=math.ceil(kept * members / STORE_NODE),
        gbit_s=8e-9 * kept * members / 3600 / HOURS,
        buckets=math.ceil(impressions * setting["buckets"] / setting["impressions"]),
        longest=max(seconds, key=lambda step: seconds[step]),
    )
