# SPDX-License-Identifier: Apache-2.0
"""Small valid raw logs of any spec, as a source writes them, and measures taken on them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from components.layout.files import write_parquet
from components.layout.paths import Layout
from feature_repo.kinds import Binary, Categorical, Embedding, Feature, HashedId
from feature_repo.spec import DAY_MS, Spec

HOUR_MS = 3_600_000
DAYS = ("2026-02-03", "2026-02-04", "2026-02-05")


def exact_auc(label: npt.NDArray[Any], score: npt.NDArray[Any]) -> float:
    """The probability that a positive scores above a negative, ties counting half."""
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    positives = float(label.sum())
    negatives = len(label) - positives
    above = float(rank[label > 0].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)


def make_impressions(spec: Spec, day: str, rows: int, seed: int = 0) -> pa.Table:
    """Valid raw impressions of one arrival day, no two of the same member, post and time."""
    rng = np.random.default_rng(seed)
    start = int(spec.day_start(spec.day_number(day)))
    arrival = np.sort(start + rng.integers(HOUR_MS, DAY_MS, rows))
    columns: dict[str, Any] = {
        "member_id": rng.integers(0, 7, rows),
        "post_id": np.arange(rows),
        "event_time": arrival - rng.integers(0, HOUR_MS, rows),
        "arrival_time": arrival,
        "timed": np.ones(rows, np.bool_),
        "request_id": np.arange(rows) // 4,
        "position": np.arange(rows) % 4,
        "dwell_ms": rng.integers(0, 60_000, rows),
    }
    features = {f.name: f for f in spec.features}
    for field in spec.impression_schema:
        if field.name not in columns:
            columns[field.name] = _values(features[field.name], rows, rng)
    return _table(columns, spec.impression_schema)


def hard_days(spec: Spec, random: np.random.Generator) -> dict[str, pa.Table]:
    """Days of few members, with pauses, late rows, rows again and rows that are refused."""
    seen: list[dict[str, Any]] = []
    days = {}
    for day in DAYS:
        start = int(spec.day_start(spec.day_number(day)))
        rows = make_impressions(spec, day, 30, seed=int(random.integers(9))).to_pylist()
        for row in rows:
            step = int(random.integers(0, 40)) * (spec.session_gap_ms // 3)
            late = int(random.choice([0, 0, 0, 1, 3, 9])) * DAY_MS
            row["member_id"] = int(random.choice([-1, 3, 4, 5, 6, 2**62]))
            row["arrival_time"] = start + step
            row["event_time"] = start + step - late
            row["request_id"] = row["request_id"] if random.random() < 0.2 else None
            row["timed"] = bool(random.random() < 0.9)
        again = [dict(seen[place]) for place in random.integers(0, len(seen), 8)] if seen else []
        for row in again:
            row["arrival_time"] = start + int(random.integers(DAY_MS))
            row["position"] = max(-1, row["position"] - int(random.choice([0, 0, 1])))
        seen += rows
        days[day] = pa.Table.from_pylist(rows + again + rows[:3], spec.impression_schema)
    return days


def make_posts(spec: Spec, count: int, seed: int = 1) -> pa.Table:
    """Valid posts 0 .. count - 1."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        "post_id": np.arange(count),
        "actor_id": rng.integers(0, 5, count),
        "root_actor_id": rng.integers(0, 5, count),
        "created_ms": 1_640_995_200_000 + rng.integers(0, DAY_MS, count),
    }
    for feature in spec.content.features:
        columns.setdefault(feature.name, _values(feature, count, rng))
    return _table(columns, spec.post_schema)


def make_members(spec: Spec, count: int, seed: int = 2) -> pa.Table:
    """Valid members 0 .. count - 1."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {"member_id": np.arange(count)}
    for view in spec.views:
        if view.kind == "profile":
            columns |= {f.name: _values(f, count, rng) for f in view.features}
    return _table(columns, spec.member_schema)


def write_log(layout: Layout, spec: Spec, days: dict[str, pa.Table], posts: int = 64) -> None:
    """Writes raw days, with valid posts and members beside them."""
    for day, table in days.items():
        write_parquet(layout.raw_day(day), table)
    write_parquet(layout.raw_posts, make_posts(spec, posts))
    write_parquet(layout.raw_members, make_members(spec, 7))


def set_value(table: pa.Table, column: str, row: int, value: Any) -> pa.Table:
    """The table with one value changed; None is a null."""
    field = table.schema.field(column)
    values = table[column].to_pylist()
    values[row] = value
    index = table.schema.get_field_index(column)
    return table.set_column(
        index, field.with_nullable(True), pa.array(values, field.type, from_pandas=False)
    )


def set_values(table: pa.Table, row: int, **values: Any) -> pa.Table:
    """The table with some values of one row changed."""
    for name, value in values.items():
        table = set_value(table, name, row, value)
    return table


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file."""
    return pq.read_table(path).to_pylist()


def stack(tables: list[pa.Table]) -> pa.Table:
    """The rows of tables whose columns may differ in being nullable."""
    return pa.concat_tables(tables, promote_options="default")


def digest(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file under a folder but its lock, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def _values(feature: Feature, rows: int, rng: np.random.Generator) -> Any:
    kind = feature.kind
    if isinstance(kind, HashedId):
        return rng.integers(0, 1000, rows)
    if isinstance(kind, Categorical):
        return rng.integers(-1, kind.cardinality, rows)
    if isinstance(kind, Binary):
        return rng.integers(-1, 2, rows)
    if isinstance(kind, Embedding):
        flat = pa.array(rng.normal(size=rows * kind.dim).astype(np.float16))
        return pa.FixedSizeListArray.from_arrays(flat, kind.dim)
    return rng.lognormal(size=rows)


def _table(columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    arrays = [
        value if isinstance(value, pa.Array) else pa.array(value).cast(field.type, safe=False)
        for field in schema
        for value in [columns[field.name]]
    ]
    return pa.Table.from_arrays(arrays, schema=schema)
