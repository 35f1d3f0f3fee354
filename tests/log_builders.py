# SPDX-License-Identifier: Apache-2.0
"""Random logs with everything that makes one hard, and runs built from them.

Times lie on a coarse grid, so that ties and midnights are common; rows arrive late, some after a
window has passed; members have untimed rows; actions and dwell are unknown at times; a post has no
content. The same seed gives the same log.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from components.config import PROFILES, DailyConfig
from components.features.histories import histories
from components.features.offline import features
from components.layout.files import write_parquet
from components.layout.paths import Layout
from components.log.columns import arrow_column, column
from feature_repo import specs
from feature_repo.kinds import Binary, Categorical, Embedding, Kind, Numeric
from feature_repo.spec import DAY_MS, Spec

FIRST_DAY = 19_100
"""The local day number of a log's first day, 2022-04-18."""

GRID_MS = 2 * 3_600_000


@dataclass(frozen=True)
class Log:
    """A log: impressions (their schema and `session_id`), posts and members."""

    spec: Spec
    impressions: pa.Table
    posts: pa.Table
    members: pa.Table

    def write(self, layout: Layout) -> list[str]:
        """Writes it as ingest does, by arrival day; returns the days."""
        write_parquet(layout.posts, self.posts)
        write_parquet(layout.members, self.members)
        day = self.spec.day(column(self.impressions, "arrival_time"))
        names = []
        for number in range(int(day.min()), int(day.max()) + 1):
            here = self.impressions.filter(pa.array(day == number))
            order = [
                (n, "ascending") for n in ("arrival_time", "event_time", "member_id", "post_id")
            ]
            names.append(self.spec.day_name(number))
            write_parquet(layout.impressions_day(names[-1]), here.sort_by(order))
        return names


def small_spec(name: str = "kuairand", impressions: int = 12, block: int = 4) -> Spec:
    """A shipped spec with a short window, under the name `small_<name>` in the shipped specs."""
    spec = dataclasses.replace(
        specs.SPECS[name], name=f"small_{name}", max_impressions=impressions, block=block
    )
    specs.SPECS[spec.name] = spec
    return spec


def small_config(spec: Spec, **changes: object) -> DailyConfig:
    """The demo's configuration on another spec."""
    return PROFILES["demo"].model_copy(update={"spec_name": spec.name, **changes})


def random_log(
    spec: Spec, seed: int, *, rows: int = 120, members: int = 5, posts: int = 8, days: int = 3
) -> Log:
    """A random log over `days` local days from FIRST_DAY on."""
    rng = np.random.default_rng(seed)
    start = int(spec.day_start(FIRST_DAY))
    event = start + rng.integers(0, days * DAY_MS // GRID_MS, rows) * GRID_MS
    late = rng.choice([0, 0, 0, 60_000, GRID_MS, DAY_MS, 6 * DAY_MS], rows)
    timed = rng.random(rows) > 0.15
    event = np.where(timed, event, start - rng.integers(1, 40, rows) * GRID_MS)
    arrival = np.where(timed, np.minimum(event + late, start + days * DAY_MS - 1), event)
    columns = {
        "member_id": rng.integers(1, members + 1, rows),
        "post_id": rng.integers(1, posts + 2, rows),
        "event_time": event,
        "arrival_time": np.maximum(arrival, event),
        "timed": timed,
        "request_id": rng.integers(1, rows, rows),
        "position": rng.integers(-1, 20, rows),
        "dwell_ms": rng.choice([-1, 0, 2_999, 3_000, 9_999, 30_000, 2**31 - 1], rows),
    }
    impressions = _impressions(spec, columns, rng)
    return Log(spec, impressions, _posts(spec, posts, start, rng), _members(spec, members, rng))


def build_run(
    layout: Layout,
    log: Log,
    config: DailyConfig,
    after: Callable[[list[str]], object] = lambda _: None,
) -> list[str]:
    """Writes a log and builds its features and histories day by day; returns the days.

    After each day it calls `after` with the days so far.
    """
    days = log.write(layout)
    for place, day in enumerate(days, 1):
        features(layout, day, config)
        histories(layout, day, config)
        after(days[:place])
    return days


def _impressions(spec: Spec, columns: dict[str, np.ndarray], rng: np.random.Generator) -> pa.Table:
    rows = len(columns["member_id"])
    arrays = []
    for field in spec.impression_schema:
        if field.name == "dwell_ms":
            dwell = columns["dwell_ms"].astype(np.int32)
            arrays.append(pa.array(dwell, mask=dwell < 0))
        elif field.name in columns:
            arrays.append(pa.array(columns[field.name]).cast(field.type))
        else:
            kind = {f.name: f.kind for f in spec.features}[field.name]
            arrays.append(arrow_column(_values(kind, rows, rng), field.type))
    table = pa.Table.from_arrays(arrays, schema=spec.impression_schema)
    table = table.append_column("session_id", pa.array(columns["event_time"] // DAY_MS))
    keys = ["member_id", "post_id", "event_time"]
    place = table.append_column("i", pa.array(np.arange(rows)))
    first = place.group_by(keys).aggregate([("i", "min")])["i_min"].to_numpy()
    return table.take(pa.array(np.sort(first)))


def _posts(spec: Spec, posts: int, start: int, rng: np.random.Generator) -> pa.Table:
    """All posts but the last one that impressions name; created before the log, or unknown."""
    ids = np.arange(1, posts + 1)
    arrays = []
    for field in spec.post_schema:
        if field.name == "post_id":
            arrays.append(pa.array(ids, pa.int64()))
        elif field.name in ("actor_id", "root_actor_id"):
            arrays.append(pa.array(1 + ids % 3, pa.int64()))
        elif field.name == "created_ms":
            created = np.where(ids % 4 == 0, -1, start - ids * GRID_MS)
            arrays.append(pa.array(created, pa.int64()))
        else:
            kind = {f.name: f.kind for f in spec.content.features}[field.name]
            arrays.append(arrow_column(_values(kind, posts, rng), field.type))
    return pa.Table.from_arrays(arrays, schema=spec.post_schema)


def _members(spec: Spec, members: int, rng: np.random.Generator) -> pa.Table:
    """All members but the last."""
    arrays = [pa.array(np.arange(1, members), pa.int64())]
    kinds = {f.name: f.kind for f in spec.features}
    for field in list(spec.member_schema)[1:]:
        arrays.append(arrow_column(_values(kinds[field.name], members - 1, rng), field.type))
    return pa.Table.from_arrays(arrays, schema=spec.member_schema)


def _values(kind: Kind, rows: int, rng: np.random.Generator) -> np.ndarray:
    if isinstance(kind, Embedding):
        return rng.normal(size=(rows, kind.dim)).astype(np.float16)
    if isinstance(kind, Numeric):
        return np.where(rng.random(rows) < 0.1, np.nan, rng.exponential(9, rows)).astype(np.float32)
    if isinstance(kind, Categorical):
        return rng.integers(-1, kind.cardinality, rows).astype(np.int32)
    if isinstance(kind, Binary):
        return rng.integers(-1, 2, rows).astype(np.int8)
    return rng.integers(1, 9, rows)
