# SPDX-License-Identifier: Apache-2.0
"""A backtest's shards: any log is imported, ingested and cut in time, each stage once.

A stage is skipped when the same inputs and the same code made its output before, so a backtest
that is killed or repeated with other rankers goes on where it was. It trains nothing and scores
nothing. The columns of the log that counters read are held in memory.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import ValidationError

from components.config import PROFILES, DailyConfig, load_config
from components.console import progress
from components.context import AsOfContext
from components.counters import event_columns
from components.events import (
    EventLog,
    column,
    history_order,
    read_members,
    read_posts,
    select_list,
    with_content,
)
from components.ingest import ingest
from components.layout import Layout, absolute, write_json
from components.sequences import TARGET, build_sequences, mark_loss
from components.shards import write_shards
from components.sources import SimulatorConfig, detect_source, simulate
from feature_repo.spec import Freshness, Spec

SIMULATED = "sim:"
CHUNK_ROWS = 400_000
"""Impressions of whole members that become sequences at once; bounds memory."""

CODE = {
    "import": ("components/sources",),
    "ingest": ("components/ingest.py", "components/checks.py", "components/sessions.py"),
    "sequences": (
        "components/backtest_data.py",
        "components/context.py",
        "components/counters.py",
        "components/events.py",
        "components/histories.py",
        "components/sequences.py",
        "serving/assemble.py",
        "serving/history.py",
    ),
}
"""The code that a stage's output is a function of; a change of it runs the stage again."""

Loss = npt.NDArray[np.int8]
Mark = Callable[[pa.Table], Iterator[Loss]]
"""The losses to build sequences with, one after the other."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Where a backtest cuts the log: train on days before one, rank the days from it on.

    Attributes:
        after_day: a warm start's watermark: only what is newer is trained on, the older is looked
            at; None is a cold start.

    Raises:
        ValueError: a date is none, or the test ends before it begins.
    """

    train_before: str
    test_through: str
    freshness: Freshness
    spec: Spec
    after_day: str | None = None

    def __post_init__(self) -> None:
        if self.spec.day_number(self.test_through) < self.spec.day_number(self.train_before):
            raise ValueError(
                f"the test ends on {self.test_through}, before it begins on {self.train_before}"
            )
        self.spec.cutoff(np.zeros(0, np.int64), self.freshness)

    @property
    def train_through(self) -> str:
        """The last day that is trained on."""
        return self.spec.day_name(self.spec.day_number(self.train_before) - 1)

    @property
    def test_days(self) -> range:
        """The local day numbers that are ranked."""
        return range(
            self.spec.day_number(self.train_before), self.spec.day_number(self.test_through) + 1
        )


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The shards of a split, and what was counted and timed on the way to them."""

    train: Path
    test: Path
    stages: dict[str, Any]


def config_for(data: str, name: str) -> DailyConfig:
    """The configuration of that name, or the shipped one for the kind of log that `data` holds.

    Raises:
        ValueError: the log's kind has no configuration of its own and none was named.
    """
    if name:
        return load_config(name)
    wanted = "simulator" if data.startswith(SIMULATED) else detect_source(data).spec_name
    for config in PROFILES.values():
        if config.spec_name == wanted:
            return config
    raise ValueError(
        f"{data} is a log of your own: name the configuration whose spec its columns follow"
    )


def prepare(data: str, work: Path, split: Split, config: DailyConfig) -> Prepared:
    """Brings a log as far as shards, skipping what is already there.

    Args:
        data: a folder that a source knows, or "sim:<impressions>[,<name>=<value>...]".
        work: the folder of all files made on the way.
        split: where to cut.
        config: the run's configuration; its freshness is the split's.

    Raises:
        ValueError: the log, a date or a number is wrong; one sentence.
    """
    layout = Layout.at(work)
    stages = Stages(layout.root / "stages")
    described = _describe(data, config.spec)
    stages.run("import", described, lambda: _import(data, layout, config.spec))
    stages.run("ingest", stages.done["import"], lambda: _ingest(layout, config))
    _check_dates(layout, split)
    newer = f"-after-{split.after_day}" if split.after_day else ""
    train = layout.sequences("train", f"{split.train_before}-{split.freshness}{newer}")
    days = f"{split.train_before}-{split.test_through}"
    test = layout.sequences("test", f"{days}-{split.freshness}")
    for folder, write in ((train, write_train), (test, write_test)):
        inputs = [stages.done["ingest"], folder.name]
        stages.run(folder.name, inputs, partial(write, layout, folder, split))
    return Prepared(train=train, test=test, stages=stages.values)


class Stages:
    """Pieces of work with a stamp each: what it was made from, what came of it, how long."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: dict[str, str] = {}
        self.values: dict[str, Any] = {}

    def run(self, name: str, inputs: Any, work: Callable[[], dict[str, Any]]) -> None:
        """Does the work, or nothing where its stamp has the same inputs and code."""
        code = _code_hash(CODE.get(name, CODE["sequences"]))
        text = json.dumps({"inputs": inputs, "code": code}, sort_keys=True)
        stamp = hashlib.sha256(text.encode()).hexdigest()[:16]
        path = self.folder / f"{name}.json"
        kept = json.loads(path.read_text()) if path.is_file() else {}
        if kept.get("stamp") != stamp:
            path.unlink(missing_ok=True)
            started = time.monotonic()
            values = work()
            kept = {"stamp": stamp, **values, "seconds": round(time.monotonic() - started, 2)}
            write_json(path, kept)
        self.done[name] = stamp
        self.values[name] = {k: v for k, v in kept.items() if k != "stamp"}


def _code_hash(names: tuple[str, ...]) -> str:
    home = Path(__file__).parents[1]
    files = [f for name in names for f in sorted((home / name).glob("*.py")) or [home / name]]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def _describe(data: str, spec: Spec) -> dict[str, Any]:
    """What a log is told apart by: its files' names, sizes and times, and the spec."""
    if data.startswith(SIMULATED):
        return {"data": data, "spec": spec.hash}
    folder = absolute(data)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    listed = [(str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return {"files": listed, "spec": spec.hash}


def _import(data: str, layout: Layout, spec: Spec) -> dict[str, Any]:
    """Writes `raw/`, and removes what was ingested from another log."""
    for name in ("impressions", "ingest", "quarantine"):
        shutil.rmtree(layout.root / name, ignore_errors=True)
    if data.startswith(SIMULATED):
        counts = simulate(layout, simulated(data))
    else:
        counts = detect_source(data).load(absolute(data), layout, spec)
    return {"impressions": counts.impressions, "days": list(counts.days)}


def simulated(data: str) -> SimulatorConfig:
    """The configuration that "sim:<impressions>[,<name>=<value>...]" stands for.

    Raises:
        ValueError: it has another form, or the simulator has no such value.
    """
    number, *others = data.removeprefix(SIMULATED).split(",")
    pairs = [other.partition("=") for other in others]
    if not number.isdecimal() or not all(sign for _, sign, _ in pairs):
        raise ValueError(
            f"{data!r} is no simulated log: write sim: and how many impressions, then maybe values "
            "of the simulator, as in sim:60000,ranked=1"
        )
    try:
        return SimulatorConfig.model_validate(
            {"impressions": number, **{name: value for name, _, value in pairs}}
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{data!r} is no simulated log: {where}: {first['msg']}") from error


def _ingest(layout: Layout, config: DailyConfig) -> dict[str, Any]:
    days = layout.raw_days()
    totals = {"read": 0, "kept": 0, "duplicates": 0, "quarantined": 0}
    with progress("ingest, days", len(days)) as advance:
        for day in days:
            counts = ingest(layout, day, config)
            totals["read"] += counts.read
            totals["kept"] += counts.kept
            totals["duplicates"] += counts.duplicates
            totals["quarantined"] += sum(counts.quarantined.values())
            advance()
    return totals


def _check_dates(layout: Layout, split: Split) -> None:
    days = layout.impression_days()
    if not days or split.train_before <= days[0] or split.test_through > days[-1]:
        span = f"{days[0]} to {days[-1]}" if days else "no day"
        raise ValueError(
            f"the log holds {span}: choose days so that some are before {split.train_before} to "
            f"train on, and {split.test_through} is not after the last"
        )


def write_train(layout: Layout, folder: Path, split: Split) -> dict[str, Any]:
    """Shards of everything newer than the watermark that had arrived before the split."""

    def mark(events: pa.Table) -> Iterator[Loss]:
        yield mark_loss(events, split.spec, split.after_day, split.train_through)

    return _write(layout, folder, split, mark, test=False)


def write_test(layout: Layout, folder: Path, split: Split) -> dict[str, Any]:
    """Shards of the days that are ranked, a sequence for each member and day.

    Labels come from the whole log; what a row knew is cut by its own cutoff.
    """

    def mark(events: pa.Table) -> Iterator[Loss]:
        day = split.spec.day(column(events, "event_time"))
        timed = column(events, "timed").astype(np.bool_)
        for number in split.test_days:
            yield np.where(timed & (day == number), TARGET, 0).astype(np.int8)

    return _write(layout, folder, split, mark, test=True)


def _write(layout: Layout, folder: Path, split: Split, mark: Mark, *, test: bool) -> dict[str, Any]:
    """Writes the marked impressions of the log: the whole of it, or as it was before the test."""
    spec, posts = split.spec, read_posts(layout)
    cold = split.after_day is None
    through = layout.impression_days()[-1] if test else split.train_through
    with EventLog(layout, through) as log, write_shards(folder, _metadata(split)) as shards:
        counted = log.query(_counted_columns(spec))
        context = AsOfContext(counted, read_members(layout), spec, split.freshness)
        members = log.query(MEMBERS)
        ids, rows = column(members, "member_id"), column(members, "rows")
        with progress(f"{folder.name} sequences", len(ids)) as advance:
            for chunk in log.member_chunks(ids, rows, CHUNK_ROWS):
                events = history_order(log.query(_rows(spec), chunk=chunk))
                events = with_content(events, posts, spec)
                for loss in mark(events):
                    for batch in build_sequences(
                        events, loss, context, spec, split.freshness, cap=cold and not test
                    ):
                        shards.write(batch)
                advance(chunk.num_rows)
        if not shards.counts.targets:
            raise ValueError(f"the log holds no timed impression in the days of {folder.name}")
    return vars(shards.counts)


MEMBERS = "select member_id, count(*) as rows from impressions group by 1 order by 1"


def _counted_columns(spec: Spec) -> str:
    names = {n for v in spec.views if v.kind == "counters" for n in event_columns(v)}
    return f"select {select_list(sorted(names))} from events"


def _rows(spec: Spec) -> str:
    names = select_list((*spec.event_schema.names, "session_id"))
    return f"select {names} from impressions semi join chunk using (member_id)"


def _metadata(split: Split) -> dict[str, str]:
    as_of_ms = split.spec.day_start(split.spec.day_number(split.train_before))
    return {
        "spec_hash": split.spec.hash,
        "freshness": split.freshness,
        "as_of_ms": str(int(as_of_ms)),
    }
