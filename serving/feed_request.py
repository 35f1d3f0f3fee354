# SPDX-License-Identifier: Apache-2.0
"""What a feed service sends to the transformer and gets back, in V1 JSON and in Arrow.

It checks a request and shapes a reply; it fetches and computes nothing.

Shape suffixes: N candidates, K tasks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from feature_repo.spec import Spec
from serving.infer import MAX_TIME_MS, check_requests, instances_of
from serving.utility import order_of, weights_of
from serving.wire import check_count

Id = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Code = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Time = Annotated[int, Field(ge=0, lt=MAX_TIME_MS)]


class Instance(BaseModel):
    """One request in V1 JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)

    member_id: Id
    candidates: list[Id]
    request: dict[str, Code] = {}
    time_ms: Time | None = None
    weights: dict[str, float] = {}


@dataclass(frozen=True, kw_only=True)
class FeedRequest:
    """One request for a ranked feed, checked.

    Attributes:
        post_ids: the candidates, int64 `[N]`.
        request: request features by name.
        time_ms: when the feed is asked for.
        weights_K: the tasks' weights in the final score.
    """

    member_id: int
    post_ids: npt.NDArray[np.int64]
    request: dict[str, int]
    time_ms: int
    weights_K: npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A scored request, in the order the candidates were sent.

    Attributes:
        flags: what degraded for the whole request.
        post_flags: what degraded for each candidate.
        dtype: what the model computed in, "float32" or "bfloat16".
    """

    asked: FeedRequest
    probabilities_NK: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float64]
    flags: list[str]
    post_flags: list[list[str]]
    model_version: str
    dtype: str


def from_json(spec: Spec, payload: Any, max_candidates: int) -> list[FeedRequest]:
    """The requests of a V1 body; ValueError says what is wrong and where."""
    return [_from_instance(spec, i, max_candidates) for i in instances_of(payload)]


def _from_instance(spec: Spec, instance: Any, max_candidates: int) -> FeedRequest:
    try:
        asked = Instance.model_validate(instance)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "instance"
        raise ValueError(f"{where}: {first['msg']}") from error
    check_count(len(asked.candidates), max_candidates)
    _check_request_features(spec, list(asked.request))
    return FeedRequest(
        member_id=asked.member_id,
        post_ids=np.array(asked.candidates, np.int64),
        request=dict(asked.request),
        time_ms=_now_ms() if asked.time_ms is None else asked.time_ms,
        weights_K=weights_of(spec, asked.weights),
    )


def from_arrow(spec: Spec, data: bytes, max_candidates: int) -> list[FeedRequest]:
    """The requests of an Arrow IPC stream, one a row; ValueError says what is wrong."""
    try:
        table = pa.ipc.open_stream(pa.py_buffer(data)).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"requests are not an Arrow IPC stream: {error}") from error
    if table.num_rows == 0:
        raise ValueError("requests has no row; send at least one")
    check_requests(table.num_rows)
    _check_columns(spec, table)
    return [_from_row(spec, row, max_candidates) for row in table.to_pylist()]


def _from_row(spec: Spec, row: dict[str, Any], max_candidates: int) -> FeedRequest:
    codes = {k: v for k, v in row.items() if k not in REQUEST_COLUMNS and v is not None}
    instance = {k: row[k] for k in ("member_id", "candidates", "time_ms") if k in row}
    return _from_instance(spec, {**instance, "request": codes}, max_candidates)


REQUEST_COLUMNS = {
    "member_id": pa.int64(),
    "candidates": pa.list_(pa.int64()),
    "time_ms": pa.int64(),
}


def _check_columns(spec: Spec, table: pa.Table) -> None:
    wanted = dict(REQUEST_COLUMNS) | {
        f.name: pa.int32() for f in spec.features if f.source == "request"
    }
    for name in ("member_id", "candidates"):
        if name not in table.column_names:
            raise ValueError(f"requests: column {name!r} is missing")
    for field in table.schema:
        if table.column_names.count(field.name) != 1 or field.name not in wanted:
            raise ValueError(f"requests: column {field.name!r} is unknown or there twice")
        if not field.type.equals(wanted[field.name]):
            raise ValueError(
                f"requests: column {field.name!r} is {field.type}, want {wanted[field.name]}"
            )


def _check_request_features(spec: Spec, names: Sequence[str]) -> None:
    have = [f.name for f in spec.features if f.source == "request"]
    unknown = [name for name in names if name not in have]
    if unknown:
        raise ValueError(f"request: {unknown[0]!r} is no request feature; have {', '.join(have)}")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def to_json(spec: Spec, ranked: Sequence[Ranked]) -> dict[str, Any]:
    """The V1 answer, best candidate first."""
    return {"predictions": [_prediction(spec, r) for r in ranked]}


def _prediction(spec: Spec, ranked: Ranked) -> dict[str, Any]:
    order = order_of(ranked.scores)
    rows = zip(
        ranked.asked.post_ids[order].tolist(),
        ranked.scores[order].tolist(),
        ranked.probabilities_NK[order].tolist(),
        (ranked.post_flags[i] for i in order),
        strict=True,
    )
    return {
        "member_id": ranked.asked.member_id,
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
    orders = [order_of(r.scores) for r in ranked]
    pairs = list(zip(ranked, orders, strict=True))
    probabilities = np.concatenate([r.probabilities_NK[o] for r, o in pairs])
    columns: dict[str, Any] = {
        "request": np.repeat(np.arange(len(pairs), dtype=np.int32), [len(o) for o in orders]),
        "member_id": np.repeat([r.asked.member_id for r in ranked], [len(o) for o in orders]),
        "post_id": np.concatenate([r.asked.post_ids[o] for r, o in pairs]),
        "score": np.concatenate([r.scores[o] for r, o in pairs]).astype(np.float32),
    }
    columns |= {n: probabilities[:, k].copy() for k, n in enumerate(spec.task_names)}
    flags = [r.post_flags[i] for r, o in pairs for i in o]
    columns["flags"] = pa.array(flags, pa.list_(pa.string()))
    metadata = {
        "model_version": ranked[0].model_version,
        "flags": json.dumps([r.flags for r in ranked]),
    }
    table = pa.table(columns).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
