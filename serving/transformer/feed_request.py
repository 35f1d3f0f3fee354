# SPDX-License-Identifier: Apache-2.0
"""What a feed service sends to the transformer and gets back, in V1 JSON and in Arrow.

It checks a request and shapes a reply; it fetches and computes nothing.

Shape suffixes: N candidates, K tasks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.kinds import Feature, default_value
from feature_repo.spec import Spec
from feature_repo.values import illegal
from serving.excerpt import excerpt
from serving.infer import check_requests, instances_of
from serving.payload import as_kind, check_known, check_metadata, decoded, time_of, whole, wholes
from serving.transformer.utility import order_of, weights_of
from serving.wire import check_count

KEYS = ("member_id", "candidates", "request", "time_ms", "weights")
"""What a request may say. The first two it must; a null of the others is as if they were absent."""


@dataclass(frozen=True, kw_only=True)
class FeedRequest:
    """One request for a ranked feed, checked.

    Attributes:
        post_ids: the candidates, int64 `[N]`, in the order they were sent; one may be named twice.
        request: request features by name, each a value that ingest would keep.
        time_ms: when the feed is asked for.
        weights_K: the tasks' weights in the final score.
        invalid: request features whose value ingest would refuse; they have the declared default.
    """

    member_id: int
    post_ids: npt.NDArray[np.int64]
    request: dict[str, int]
    time_ms: int
    weights_K: npt.NDArray[np.float64]
    invalid: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A scored request, in the order the candidates were sent.

    Attributes:
        flags: what degraded for the whole request.
        post_flags: what degraded for each candidate.
        dtype: what the model computed in, "float32" or "bfloat16".
    """

    request: FeedRequest
    probabilities_NK: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float64]
    flags: list[str]
    post_flags: list[list[str]]
    model_version: str
    dtype: str


def from_json(spec: Spec, payload: Any, max_candidates: int) -> list[FeedRequest]:
    """The requests of a V1 body; ValueError says what is wrong and where."""
    return [_from_instance(spec, i, max_candidates) for i in instances_of(payload)]


def from_arrow(spec: Spec, data: bytes, max_candidates: int) -> list[FeedRequest]:
    """The requests of an Arrow IPC stream, one a row; ValueError says what is wrong.

    Its columns are an instance's keys; `request` and `weights` are structs or maps, or each request
    feature is a column of its own.
    """
    try:
        table = pa.ipc.open_stream(pa.py_buffer(data)).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"requests are not an Arrow IPC stream: {error}") from error
    if table.num_rows == 0:
        raise ValueError("requests has no row; send at least one")
    check_requests(table.num_rows)
    check_metadata("requests", table.schema)
    columns = _columns(spec, table)
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return [_from_instance(spec, _nested(spec, row), max_candidates) for row in rows]


CODE = (-(2**31), 2**31)
"""A request feature's value is an int32 everywhere behind this module."""
KINDS = {"member_id": pa.int64(), "candidates": pa.list_(pa.int64()), "time_ms": pa.int64()}
"""Columns whose values are numbers of one kind, whatever they were sent as."""


def _columns(spec: Spec, table: pa.Table) -> dict[str, list[Any]]:
    """The table's columns as plain values."""
    names = table.column_names
    check_known("requests: column", names, (*KEYS, *_features(spec)))
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"requests: column {name!r} is there twice")
    return {name: _values(name, table[name].combine_chunks()) for name in names}


def _values(name: str, column: pa.Array) -> list[Any]:
    what = f"requests: column {name!r}"
    column = as_kind(what, column, KINDS[name]) if name in KINDS else decoded(column)
    try:
        values: list[Any] = column.to_pylist(maps_as_pydicts="strict")
    except (KeyError, ValueError) as error:
        raise ValueError(f"{what} cannot be read: {excerpt(str(error))}") from error
    return values


def _nested(spec: Spec, row: dict[str, Any]) -> dict[str, Any]:
    """A row as an instance: the columns of request features inside of `request`."""
    flat = {name: row[name] for name in _features(spec) if row.get(name) is not None}
    inside = _named("request", row.get("request"))
    twice = [name for name in flat if inside.get(name) is not None]
    if twice:
        raise ValueError(f"requests: {twice[0]!r} is a column and in request; send it once")
    return {name: row[name] for name in KEYS if name in row} | {"request": inside | flat}


def _named(what: str, value: Any) -> dict[str, Any]:
    """Values by name, none where there is nothing."""
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{what} is {excerpt(value)}, want values by name")
    return value or {}


def _from_instance(spec: Spec, instance: Any, max_candidates: int) -> FeedRequest:
    """One request out of plain values, from whichever format."""
    if not isinstance(instance, dict):
        raise ValueError(f"an instance is {excerpt(instance)}, want an object")
    check_known("the key of an instance", instance, KEYS)
    for name in ("member_id", "candidates"):
        if instance.get(name) is None:
            raise ValueError(f"{name} is missing; a request names its member and its candidates")
    posts = instance["candidates"]
    if not isinstance(posts, list):
        raise ValueError(f"candidates is {excerpt(posts)}, want a list of post ids")
    check_count(len(posts), max_candidates)
    codes, invalid = _codes(spec, _named("request", instance.get("request")))
    time_ms = instance.get("time_ms")
    return FeedRequest(
        member_id=whole("member_id", instance["member_id"]),
        post_ids=wholes("candidates", posts),
        request=codes,
        time_ms=_now_ms() if time_ms is None else time_of("time_ms", time_ms),
        weights_K=weights_of(spec, _named("weights", instance.get("weights"))),
        invalid=invalid,
    )


def _codes(spec: Spec, request: Mapping[str, Any]) -> tuple[dict[str, int], tuple[str, ...]]:
    """The values of request features, and which of them ingest would refuse.

    Those have the declared default.
    """
    features, codes, invalid = _features(spec), {}, []
    check_known("request feature", request, features)
    for name in [name for name, value in request.items() if value is not None]:
        kind, code = features[name].kind, whole(name, request[name])
        if illegal(kind, np.array([code]))[0]:
            invalid.append(name)
            code = default_value(kind)
        codes[name] = whole(name, code, *CODE)
    return codes, tuple(invalid)


def _features(spec: Spec) -> dict[str, Feature]:
    return {f.name: f for f in spec.features if f.source == "request"}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def to_json(spec: Spec, ranked: Sequence[Ranked]) -> dict[str, Any]:
    """The V1 answer, best candidate first."""
    return {"predictions": [_prediction(spec, r) for r in ranked]}


def _prediction(spec: Spec, ranked: Ranked) -> dict[str, Any]:
    order = order_of(ranked.scores)
    rows = zip(
        ranked.request.post_ids[order].tolist(),
        ranked.scores[order].tolist(),
        ranked.probabilities_NK[order].tolist(),
        (ranked.post_flags[i] for i in order),
        strict=True,
    )
    return {
        "member_id": ranked.request.member_id,
        "model_version": ranked.model_version,
        "flags": ranked.flags,
        "ranked": [
            {
                "post_id": post_id,
                "score": score,
                "probabilities": dict(zip(spec.task_names, probabilities, strict=True)),
                "flags": flags,
            }
            for post_id, score, probabilities, flags in rows
        ],
    }


def to_arrow(spec: Spec, ranked: Sequence[Ranked]) -> bytes:
    """The answer as an Arrow IPC stream, one row a candidate, best first within each request."""
    pairs = [(r, order_of(r.scores)) for r in ranked]
    lengths = np.array([len(order) for _, order in pairs], np.int64)
    members = np.array([r.request.member_id for r in ranked], np.int64)
    posts = [r.request.post_ids[o] for r, o in pairs]
    scores = [r.scores[o] for r, o in pairs]
    tasks_NK = [np.zeros((0, len(spec.tasks)), np.float32)]
    probabilities_NK = np.concatenate(tasks_NK + [r.probabilities_NK[o] for r, o in pairs])
    columns: dict[str, Any] = {
        "request": np.repeat(np.arange(len(pairs), dtype=np.int32), lengths),
        "member_id": np.repeat(members, lengths),
        "post_id": np.concatenate([np.zeros(0, np.int64), *posts]),
        "score": np.concatenate([np.zeros(0), *scores]).astype(np.float32),
    }
    columns |= {n: probabilities_NK[:, k].copy() for k, n in enumerate(spec.task_names)}
    flags = [r.post_flags[i] for r, o in pairs for i in o]
    columns["flags"] = pa.array(flags, pa.list_(pa.string()))
    metadata = {
        "model_version": ranked[0].model_version if ranked else "",
        "flags": json.dumps([r.flags for r in ranked]),
    }
    table = pa.table(columns).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
