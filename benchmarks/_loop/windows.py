# SPDX-License-Identifier: Apache-2.0
"""Checked impressions of members who all see as many, written a stretch of a day at a time.

Each member follows a few actors, and sees a request of ten posts every so often. Actions are drawn
at fixed rates: what a ranker would learn of them is nobody's business here.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

REQUEST = 10
ACTORS, VERSIONS, FAVOURITES = 2_000, 5, 20
"""Actors, posts of each, and how many actors a member follows."""
DELAY_MS = 60_000
"""From an impression to its arrival."""
RATES = {"click": 0.2, "skip": 0.3, "long_dwell": 0.2, "like": 0.05, "comment": 0.01, "share": 0.01}
DAY_MS = 86_400_000


def write(root: Path, log: dict[str, Any]) -> int:
    """Writes `impressions/`, posts and members; returns how many impressions.

    Args:
        root: the run's.
        log: how many `members`, the `rows` of each of them a day, and the day of `start`.
    """
    from components.layout.files import atomic_path, write_parquet
    from components.layout.paths import Layout
    from feature_repo.specs import SIMULATOR

    layout, rng, rows = Layout.at(root), np.random.default_rng(0), 0
    start = datetime.date.fromisoformat(log["start"])
    write_parquet(
        layout.posts,
        _filled(
            SIMULATOR.post_schema,
            _posts(SIMULATOR.day_start(SIMULATOR.day_number(log["start"]))),
            rng,
        ),
    )
    schema = SIMULATOR.impression_schema.append(pa.field("session_id", pa.int64(), nullable=False))
    for number, each in enumerate(log["rows"]):
        day = (start + datetime.timedelta(days=number)).isoformat()
        begin = SIMULATOR.day_start(SIMULATOR.day_number(day))
        path = layout.impressions_day(day)
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            atomic_path(path) as temporary,
            pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
        ):
            for columns in _day(log["members"], each, begin, rng):
                writer.write_table(_filled(schema, columns, rng))
                rows += len(columns["member_id"])
    members = {"member_id": np.arange(1, log["members"] + 1)}
    write_parquet(layout.members, _filled(SIMULATOR.member_schema, members, rng))
    return rows


def _posts(before_ms: int) -> dict[str, np.ndarray]:
    post = np.arange(1, ACTORS * VERSIONS + 1)
    actor = (post - 1) % ACTORS + 1
    created = before_ms - DAY_MS + post
    return {"post_id": post, "actor_id": actor, "root_actor_id": actor, "created_ms": created}


def _day(
    members: int, each: int, begin_ms: int, rng: np.random.Generator
) -> Iterator[dict[str, np.ndarray]]:
    """A day's rows in the order they arrive, a request of every member at a time."""
    requests = -(-each // REQUEST)
    span = (DAY_MS - DELAY_MS) // requests
    for number in range(requests):
        size = min(REQUEST, each - number * REQUEST)
        order = rng.permutation(members) + 1
        offset = np.sort(rng.integers(0, span, members))
        member = np.repeat(order, size)
        event = np.repeat(begin_ms + number * span + offset, size)
        place = np.tile(np.arange(size), members)
        choice = np.repeat(rng.integers(0, FAVOURITES, members), size) + place
        actor = (member * 7 + choice % FAVOURITES) % ACTORS
        columns = {
            "member_id": member,
            "post_id": actor + ACTORS * np.repeat(rng.integers(0, VERSIONS, members), size) + 1,
            "event_time": event,
            "arrival_time": event + DELAY_MS,
            "request_id": np.repeat(rng.integers(0, 2**62, members), size),
            "position": place,
            "session_id": np.repeat(rng.integers(0, 2**62, members), size),
            "timed": np.ones(len(member), np.bool_),
            "dwell_ms": rng.integers(500, 40_000, len(member)),
        }
        yield columns | {name: rng.random(len(member)) < rate for name, rate in RATES.items()}


def _filled(
    schema: pa.Schema, columns: dict[str, np.ndarray], rng: np.random.Generator
) -> pa.Table:
    """A table of a schema: what is not given is drawn, small and never negative."""
    rows = len(next(iter(columns.values())))
    arrays = []
    for field in schema:
        if pa.types.is_fixed_size_list(field.type):
            size, kind = field.type.list_size, field.type.value_type
            flat = rng.normal(0, 0.2, rows * size).astype(kind.to_pandas_dtype())
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), type=field.type))
            continue
        drawn = columns.get(field.name)
        drawn = rng.integers(0, 3, rows) if drawn is None else drawn
        arrays.append(pa.array(drawn.astype(field.type.to_pandas_dtype()), field.type))
    return pa.Table.from_arrays(arrays, schema=schema)
