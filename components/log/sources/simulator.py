# SPDX-License-Identifier: Apache-2.0
"""A seeded simulator of a feed with known truth, written into `raw/` as the simulator's spec says.

One day is in memory at a time, without its truth (some 150 bytes an impression while it is sorted),
and the wide arrays are drawn in chunks of requests: ten million impressions over ten days take 0.6
GB. The log is as real logs are: some requests arrive days late, some rows come twice, some are
nonsense. This module knows nothing of ingest or rankers.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from components.console import progress
from components.layout.files import atomic_path, write_parquet
from components.layout.paths import Layout
from components.log.sources.base import SourceCounts, fresh_raw
from components.log.sources.feed import Columns, Feed
from components.log.sources.feedback import ACTIONS
from components.log.sources.simulator_config import SimulatorConfig
from components.log.sources.world import Posts, World
from feature_repo.spec import DAY_MS, Spec
from feature_repo.specs import SIMULATOR

__all__ = ["SimulatorConfig", "has_truth", "simulate", "truth_day"]

TRUTH = (
    *("member_id", "post_id", "event_time", "position", "visit_id", "mood", "examination"),
    *("arrival_time", *ACTIONS, "dwell_ms"),
    *(f"{kind}_{action}" for kind in "pb" for action in ACTIONS),
)


def simulate(layout: Layout, config: SimulatorConfig) -> SourceCounts:
    """Writes a simulated log: `raw/` by arrival day, posts, members, and the truth behind it.

    Returns:
        What was written; the notes count the duplicates, the bad and the late rows in the log, and
        the rows whose log had not arrived when the last day ended.
    """
    feed = Feed(config)
    with fresh_raw(layout) as fresh:
        arrivals = Arrivals(fresh, config, SIMULATOR)
        with progress("simulate", config.days) as advance, ExitStack() as stack:
            posts = _writer(stack, fresh.raw_posts, SIMULATOR.post_schema)
            for stock in feed.world.stock:
                posts.write_table(_post_table(feed.world, stock))
            for day in range(config.days):
                posts.write_table(_post_table(feed.world, feed.world.next_day()))
                _simulate_day(feed, arrivals, day, layout)
                advance()
        write_parquet(fresh.raw_members, _member_table(feed.world))
    return SourceCounts(
        impressions=arrivals.written,
        posts=feed.world.posts_made,
        members=config.members,
        days=tuple(layout.raw_days()),
        notes=arrivals.notes(),
    )


def truth_day(layout: Layout, day: str) -> pa.Table:
    """The truth of the impressions simulated on a day, for tests and ablations; no step reads it.

    Columns: member_id, post_id, event_time, position, visit_id, mood, examination, arrival_time,
    the actions, dwell_ms, and per action `p_` (its probability, everything known) and `b_` (the
    same with the visit's mood at 0, its median: the best that can be known before the visit).
    """
    return pq.read_table(_truth_path(layout, day))


def has_truth(layout: Layout, day: str) -> bool:
    """Whether the truth of a day was written."""
    return _truth_path(layout, day).is_file()


def _truth_path(layout: Layout, day: str) -> Path:
    return layout.root / "truth" / f"day={day}.parquet"


def _simulate_day(feed: Feed, arrivals: Arrivals, day: int, layout: Layout) -> None:
    """Draws a day, keeps its rows until they arrive, and writes what arrived on it."""
    name = SIMULATOR.day_name(feed.world.start_ms // DAY_MS + day)
    with ExitStack() as stack:
        truth = None
        for chunk in feed.chunks(day):
            arrivals.add(chunk)
            if feed.config.truth:
                table = pa.table({n: _narrow(chunk[n]) for n in TRUTH})
                truth = truth or _writer(stack, _truth_path(layout, name), table.schema)
                truth.write_table(table)
    arrivals.write_day(name)


class Arrivals:
    """What the log receives: rows by the day they arrive, duplicates and nonsense among them."""

    def __init__(self, layout: Layout, config: SimulatorConfig, spec: Spec) -> None:
        self.layout, self.config, self.spec = layout, config, spec
        self.rng = np.random.default_rng([config.seed, 4])
        self.names = spec.impression_schema.names
        self.waiting: dict[int, list[Columns]] = {}
        self.written = 0
        self.counted = {"duplicates": 0, "bad": 0, "late": 0}

    def add(self, rows: Columns) -> None:
        """Takes impressions, logs some of them twice and adds some nonsense."""
        count = len(rows["member_id"])
        rows = {**rows, "timed": np.ones(count, np.bool_), "kind": np.zeros(count, np.int8)}
        rows["kind"][rows["late"]] = 1
        again = self.rng.random(count) < self.config.duplicate_share
        twice = {n: rows[n][again] for n in (*self.names, "kind")}
        later = self.rng.random(int(again.sum())) < 0.5
        twice["arrival_time"] = twice["arrival_time"] + np.where(later, DAY_MS, 0)
        twice["kind"] = np.full(len(later), 2, np.int8)
        picked = self.rng.random(count) < self.config.bad_share
        bad = spoil({n: rows[n][picked] for n in (*self.names, "kind")})
        bad["kind"][:] = 3
        for part in (rows, twice, bad):
            self._sort_in({n: part[n] for n in (*self.names, "kind")})

    def _sort_in(self, rows: Columns) -> None:
        day = self.spec.day(rows["arrival_time"])
        for arrival in np.unique(day):
            part = {name: values[day == arrival] for name, values in rows.items()}
            self.waiting.setdefault(int(arrival), []).append(part)

    def write_day(self, name: str) -> None:
        """Writes what arrived on a day, in the order it arrived; an empty day is an empty file."""
        parts = self.waiting.pop(self.spec.day_number(name), [])
        schema = self.spec.impression_schema
        if not parts:
            write_parquet(self.layout.raw_day(name), schema.empty_table())
            return
        rows = {n: np.concatenate([part[n] for part in parts]) for n in parts[0]}
        keys = ("position", "member_id", "event_time", "request_id", "arrival_time")
        order = np.lexsort([rows["kind"], *(rows[k] for k in keys)])
        for number, kind in enumerate(("late", "duplicates", "bad"), start=1):
            self.counted[kind] += int((rows["kind"] == number).sum())
        self.written += len(order)
        columns = [pa.array(rows[f.name][order], type=f.type) for f in schema]
        write_parquet(self.layout.raw_day(name), pa.Table.from_arrays(columns, schema=schema))

    def notes(self) -> dict[str, int]:
        """What the log holds beside plain rows, and what had not arrived at its end."""
        waiting = sum(len(p["member_id"]) for parts in self.waiting.values() for p in parts)
        return {**self.counted, "not_arrived": waiting}


def spoil(rows: Columns) -> Columns:
    """Copies of good rows, each broken in one of six ways, in turn."""
    way = np.arange(len(rows["member_id"])) % 6
    rows = {name: values.copy() for name, values in rows.items()}
    rows["member_id"][way == 0] = -7
    rows["event_time"][way == 1] = rows["arrival_time"][way == 1] + 60_000
    rows["click"][way == 2] = 7
    rows["position"][way == 3] = -9
    rows["surface"][way == 4] = 99
    rows["dwell_ms"][way == 5] = -50
    return rows


def _narrow(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values.astype(np.float32) if values.dtype == np.float64 else values


def _writer(stack: ExitStack, path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A Parquet writer whose file appears under `path` when the stack closes without an error."""
    temporary = stack.enter_context(atomic_path(path))
    return stack.enter_context(pq.ParquetWriter(temporary, schema, compression="zstd"))


def _post_table(world: World, posts: Posts) -> pa.Table:
    schema = SIMULATOR.post_schema
    content = pa.array(world.content(posts).astype(np.float16).ravel())
    columns = {
        "post_id": posts.post_id,
        "actor_id": posts.actor + 1,
        "root_actor_id": posts.root_actor + 1,
        "created_ms": posts.created_ms,
        "media": posts.media,
        "length_s": posts.length_s,
        "content": pa.FixedSizeListArray.from_arrays(content, 50),
    }
    return pa.Table.from_arrays([_column(columns[f.name], f) for f in schema], schema=schema)


def _member_table(world: World) -> pa.Table:
    schema = SIMULATOR.member_schema
    profile = pa.array(world.profile_ML.astype(np.float16).ravel())
    columns = {
        "member_id": np.arange(1, world.config.members + 1),
        "profile": pa.FixedSizeListArray.from_arrays(profile, 16),
        "industry": world.industry_M,
        "connections": world.connections_M,
    }
    return pa.Table.from_arrays([_column(columns[f.name], f) for f in schema], schema=schema)


def _column(values: npt.NDArray[Any] | pa.Array, field: pa.Field) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values).cast(field.type, safe=False)
