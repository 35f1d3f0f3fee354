# SPDX-License-Identifier: Apache-2.0
"""The cases: a log, and the steps that are measured on it, by the code of one checkout.

Where a folder is kept, what was measured there stays and is not measured again. Knows no page.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks._loop.measure import Call, Cost, measure

COUNTED = ("ingest", "features", "histories", "materialize")
STEPS = (*COUNTED, "sequences")
START_DAY = "2026-01-05"
MEMBERS_PER, POSTS_PER = 115, 26
"""Impressions a member, and those a day of a new post, as in the demo."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """A checkout whose code is measured."""

    name: str
    tree: Path

    @property
    def commit(self) -> str:
        """Its commit; "" where it is no repository."""
        command = ["git", "-C", str(self.tree), "rev-parse", "--short", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A log of some days, on whose last day each step is measured.

    Attributes:
        kind: what grows in the cases beside it.
        impressions: in all.
        members: that there are.
        buckets: of the state.
        engine: that deals buckets out.
        brief: nothing goes online before the last day, and it has no sequences.
    """

    kind: str
    impressions: int
    days: int
    members: int
    buckets: int = 16
    engine: str = "local"
    brief: bool = False

    @property
    def name(self) -> str:
        """A folder's name."""
        return f"{self.kind}-{self.impressions}-{self.days}-{self.members}-{self.engine}"

    @property
    def log_name(self) -> str:
        """The folder of its log, which cases of engines share with one of impressions."""
        kind = "impressions" if self.kind == "engines" else self.kind
        return replace(self, kind=kind, engine="local").name

    @property
    def setting(self) -> dict[str, Any]:
        """For the record."""
        names = ("kind", "impressions", "days", "members", "buckets", "engine")
        return {name: getattr(self, name) for name in names}

    def by(self, engine: str) -> Case:
        """The same by an engine, as a case of engines."""
        return replace(self, kind="engines", engine=engine)

    def config(self, online_store: str = "sqlite") -> dict[str, Any]:
        """Of the configuration, what is not the demo's."""
        return {"buckets": self.buckets, "engine": self.engine, "online_store": online_store}


def sized(impressions: int, days: int = 9) -> Case:
    """A case of so many impressions, with members and posts in the demo's proportions."""
    members = max(impressions // MEMBERS_PER, 20)
    return Case(kind="impressions", impressions=impressions, days=days, members=members)


def aged(days: int, rows: int) -> Case:
    """A case of so many days of about so many impressions each, of members that stay the same."""
    return Case(kind="days", impressions=days * rows, days=days, members=max(rows // 12, 20))


class Bench:
    """Measures steps on roots in a folder, once each.

    Args:
        code: whose code runs.
        root: the run's root; what was measured is beside it.
    """

    def __init__(self, code: Code, root: Path) -> None:
        self.code, self.root = code, root
        self._notes = root.with_name(f"{root.name}.json")
        self._about = root.with_name(f"{root.name}-facts.json")
        self.costs = {name: Cost(**cost) for name, cost in _read(self._notes).items()}
        self.facts = _read(self._about)

    @classmethod
    def of(cls, case: Case, code: Code, work: Path) -> Bench:
        """That of a case by a checkout in a folder of work."""
        return cls(code, work / f"{code.name}-{code.commit or 'tree'}" / case.name)

    @property
    def complete(self) -> bool:
        """Whether its last step was measured."""
        return bool({"day:sequences", "all:sqlite:materialize"} & self.costs.keys())

    def add_facts(self, facts: Mapping[str, Any]) -> None:
        """Keeps what is no step's cost."""
        self.facts |= facts
        self._about.write_text(json.dumps(self.facts))

    def step(self, label: str, day: str, config: Mapping[str, Any], **call: Any) -> Cost:
        """Measures a step under a label, where that was not done; "" after a colon is its name."""
        if label not in self.costs:
            name = label.rpartition(":")[2]
            whole = Call(
                tree=self.code.tree, step=name, root=self.root, day=day, config=config, **call
            )
            self.costs[label] = cost = measure(whole)
            about = f"{cost.cpu_s:8.1f} CPU-s {cost.wall_s:8.1f} s {cost.peak_mib:7.0f} MiB"
            print(f"  {self.code.name} {label:28}{about} {cost.died}", flush=True)
            notes = {n: c.as_dict() for n, c in self.costs.items()}
            self._notes.write_text(json.dumps(notes, indent=1))
        return self.costs[label]


def _read(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is none."""
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def simulated(case: Case, code: Code, work: Path) -> Path:
    """The raw log of a case, drawn where it is not there."""
    root = work / "logs" / case.log_name
    if not (root / "raw" / "posts.parquet").is_file():
        log = {
            "impressions": case.impressions,
            "days": case.days,
            "members": case.members,
            "actors": max(case.members, 12),
            "posts_per_day": max(case.impressions // case.days // POSTS_PER, 1),
            "start": START_DAY,
            "truth": False,
        }
        root.mkdir(parents=True, exist_ok=True)
        config = {**case.config(), "log": log}
        call = Call(tree=code.tree, step="simulate", root=root, day="", config=config)
        if died := measure(call).died:
            raise ValueError(f"the log of {case.name} could not be drawn: {died}")
    return root


def link(source: str, target: str) -> str:
    """A second name of a file, which every step replaces and none writes into."""
    Path(target).hardlink_to(source)
    return target


def days_of(log: Path, count: int) -> list[str]:
    """The first days of a raw log; what arrives after the last simulated day is left alone."""
    return sorted(p.name[4:] for p in (log / "raw").glob("day=*"))[:count]


def run_case(case: Case, code: Code, log: Path, work: Path) -> Bench:
    """Brings a root to the day before the last, then measures each step of the last day.

    A step that died ends its own way: those that want its files die of that, and say so.
    """
    bench, days = Bench.of(case, code, work), days_of(log, case.days)
    if not bench.costs:
        shutil.rmtree(bench.root, ignore_errors=True)
        shutil.copytree(log, bench.root, copy_function=link)
    for label, day in _labels(days, case.brief):
        bench.step(label, day, case.config())
    return bench


def _labels(days: list[str], brief: bool) -> Iterator[tuple[str, str]]:
    for step in COUNTED[:-1] if brief else COUNTED:
        yield f"backfill:{step}", days[-2]
    for step in COUNTED if brief else STEPS:
        yield f"day:{step}", days[-1]
