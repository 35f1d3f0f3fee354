# SPDX-License-Identifier: Apache-2.0
"""Shards of random sequences of any spec (components/training/README.md), in a folder to train on.

Impressions know what `freshness` would know; click depends on the feed position and long_dwell on
the post, so that there is something to learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from feature_repo.kinds import Embedding, HashedId, arrow_type
from feature_repo.spec import DAY_MS, Freshness, Spec

START_MS = 1_700_000_000_000 // DAY_MS * DAY_MS
POSTS = 500


def random_lengths(count: int, seed: int = 0, mean: float = 8.0, most: int = 40) -> list[int]:
    """Heavy-tailed lengths in [1, most]."""
    draws = np.random.default_rng(seed).exponential(mean, count)
    return np.clip(draws, 1, most).astype(int).tolist()


def write_shards(
    folder: Path,
    spec: Spec,
    lengths: Sequence[int],
    *,
    shards: int = 2,
    seed: int = 0,
    freshness: Freshness = "day",
) -> list[Path]:
    """Writes sequences of these lengths in `shards` files; the first fifth of each is auxiliary."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {
        "spec_hash": spec.hash,
        "freshness": freshness,
        "as_of_ms": str(START_MS + 30 * DAY_MS),
    }
    paths = []
    for number, part in enumerate(np.array_split(np.array(lengths), shards)):
        first = 1 + number * 1_000_000
        batches = [
            shard_batch(spec, part[i : i + 256], rng, first + i, freshness)
            for i in range(0, len(part), 256)
        ]
        paths.append(folder / f"part-{number:05d}.arrow")
        schema = batches[0].schema.with_metadata(metadata)
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(str(paths[-1]), schema, options=options) as writer:
            for batch in batches:
                writer.write_batch(batch)
    return paths


def shard_batch(
    spec: Spec,
    lengths: np.ndarray,
    rng: np.random.Generator,
    member: int,
    freshness: Freshness = "day",
) -> pa.RecordBatch:
    """One record batch of sequences."""
    lengths = np.asarray(lengths, np.int64)
    total = int(lengths.sum())
    starts = np.concatenate([[0], np.cumsum(lengths)])
    place = np.arange(total) - np.repeat(starts[:-1], lengths)
    values = sequence_columns(spec, place, rng)
    values["known"] = known_prefix(place, freshness)
    values["loss"] = np.where(place * 5 < np.repeat(lengths, lengths), 2, 1).astype(np.int8)
    targets = np.add.reduceat(values["loss"] == 1, starts[:-1]) if total else np.zeros(0, int)
    context = rng.exponential(3.0, (int(targets.sum()), spec.context_width)).astype(np.float32)
    context[rng.random(context.shape) < 0.1] = np.nan
    fields = [("member_id", pa.array(np.arange(member, member + len(lengths))))]
    fields.append(("start", pa.array(np.zeros(len(lengths), np.int64))))
    for name, array in values.items():
        element = spec.history_schema.field(name).type if name in schema_names(spec) else None
        fields.append((name, _lists(array, starts, element)))
    context_starts = np.concatenate([[0], np.cumsum(targets)]) * spec.context_width
    fields.append(("context", _lists(context.ravel(), context_starts, None)))
    return pa.RecordBatch.from_arrays([a for _, a in fields], names=[n for n, _ in fields])


def schema_names(spec: Spec) -> set[str]:
    """The columns of a history."""
    return set(spec.history_schema.names)


def sequence_columns(
    spec: Spec, place: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Random values of every history column; four impressions a session, twelve a day."""
    total = len(place)
    event_time = START_MS + (place // 12) * DAY_MS + (place % 12 + 1) * 60_000
    position = (place % 4).astype(np.int16)
    post = rng.integers(1, POSTS, total)
    columns: dict[str, np.ndarray] = {
        "event_time": event_time,
        "arrival_time": event_time,
        "session_id": place // 4,
        "timed": np.ones(total, np.bool_),
        "position": position,
    }
    for feature in spec.with_role("sequence"):
        kind = feature.kind
        if isinstance(kind, HashedId):
            columns[feature.name] = post
        elif isinstance(kind, Embedding):
            columns[feature.name] = rng.standard_normal((total, kind.dim)).astype(np.float16)
        else:
            dtype = arrow_type(kind).to_pandas_dtype()
            columns[feature.name] = rng.integers(0, 8, total).astype(dtype)
    for feature in spec.with_role("action"):
        dtype = arrow_type(feature.kind).to_pandas_dtype()
        chance = np.where(post % 3 == 0, 0.8, 0.2) / (1 + 0.5 * position)
        columns[feature.name] = (rng.random(total) < chance).astype(dtype)
    return columns


def known_prefix(place: np.ndarray, freshness: Freshness) -> np.ndarray:
    """int32: all before (immediate), or the days before."""
    known = place if freshness == "immediate" else place // 12 * 12
    return known.astype(np.int32)


def _lists(values: np.ndarray, starts: np.ndarray, element: pa.DataType | None) -> pa.ListArray:
    if values.ndim == 2:
        flat = pa.array(values.ravel(), pa.float16())
        inner = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    else:
        inner = pa.array(values, element)
    return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), inner)
