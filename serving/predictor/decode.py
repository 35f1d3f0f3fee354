# SPDX-License-Identifier: Apache-2.0
"""A call's payload, Arrow in V2 or JSON in V1, to the requests that it holds.

It knows the spec and the wire; it holds no model. Everything here runs under the decoding guard
(`serving.errors.bad_input`) and raises ValueError.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
from kserve import InferRequest

from feature_repo.kinds import default_value
from feature_repo.spec import Spec
from serving import infer
from serving.excerpt import excerpt
from serving.history import decode_history
from serving.payload import check_known, number, time_of, whole
from serving.wire import (
    CONTEXT,
    RankRequest,
    candidate_schema,
    check_names,
    check_spec_hash,
    columns_of,
    decode_candidates,
)

INPUTS = ("history", "candidates")
OUTPUT = "probabilities"
PARAMETERS = ("request_time_ms", "spec_hash", "deadline_ms")
INSTANCE_KEYS = ("history", "candidates", "context", "request_time_ms", "spec_hash")
MAX_FLOAT = float(np.finfo(np.float32).max)


def from_message(
    spec: Spec, message: InferRequest, max_candidates: int
) -> tuple[RankRequest, float | None]:
    """The request of a V2 message, and its deadline on the clock of `time.monotonic`."""
    infer.check_message(message, inputs=INPUTS, outputs=(OUTPUT,), parameters=PARAMETERS)
    values = infer.parameters_of(message, numbers=("request_time_ms", "deadline_ms"))
    deadline = infer.deadline_of(values)
    check_spec_hash(spec, values.get("spec_hash"))
    candidates = infer.bytes_input(message, "candidates")
    features, context_NC = decode_candidates(spec, candidates, max_candidates)
    request = RankRequest(
        history=decode_history(infer.bytes_input(message, "history"), spec),
        features=features,
        context_NC=context_NC,
        time_ms=time_of("request_time_ms", values.get("request_time_ms")),
    )
    return request, deadline


def from_json(
    spec: Spec, payload: Any, max_candidates: int
) -> tuple[list[RankRequest], float | None]:
    """The requests of a V1 body, and their deadline on the clock of `time.monotonic`."""
    instances = infer.instances_of(payload)
    requests = [_from_instance(spec, instance, max_candidates) for instance in instances]
    return requests, infer.deadline_of(payload)


def _from_instance(spec: Spec, instance: Any, max_candidates: int) -> RankRequest:
    if not isinstance(instance, dict) or not isinstance(instance.get("candidates"), dict):
        raise ValueError('an instance wants "candidates": {column: [values]}')
    check_known("the key of an instance", instance, INSTANCE_KEYS)
    check_spec_hash(spec, instance.get("spec_hash"))
    batch = _json_batch(spec, instance["candidates"], instance.get("context"))
    features, context_NC = columns_of(spec, batch, max_candidates)
    return RankRequest(
        history=decode_history(infer.as_bytes(instance.get("history") or ""), spec),
        features=features,
        context_NC=context_NC,
        time_ms=time_of("request_time_ms", instance.get("request_time_ms")),
    )


def _json_batch(spec: Spec, columns: dict[str, Any], context: Any) -> pa.RecordBatch:
    """The candidates' record batch out of JSON, where null stands for the declared default."""
    schema = candidate_schema(spec)
    check_names(schema, [*columns, CONTEXT])
    lists = {**columns, CONTEXT: context}
    for name in schema.names:
        if not isinstance(lists.get(name), list):
            raise ValueError(
                f"candidates: column {name!r} is {excerpt(lists.get(name))}, want a list"
            )
    lengths = {name: len(lists[name]) for name in schema.names}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"candidates: columns have other lengths than one another: {lengths}")
    defaults = {f.name: default_value(f.kind) for f in spec.with_role("sequence")}
    arrays = [_json_column(field, lists[field.name], defaults.get(field.name)) for field in schema]
    return pa.record_batch(arrays, schema=schema)


def _json_column(field: pa.Field, values: list[Any], default: Any) -> pa.Array:
    what, kind = f"candidates: column {field.name!r}", field.type
    if not pa.types.is_fixed_size_list(kind):
        filled = [default if value is None else value for value in values]
        if pa.types.is_integer(kind):
            end = 2 ** (kind.bit_width - 1)
            return pa.array([whole(what, value, -end, end) for value in filled], kind)
        return pa.array([_float(what, value, MAX_FLOAT, True) for value in filled], kind)
    size = kind.list_size
    rows = [[default] * size if row is None and default is not None else row for row in values]
    for row in rows:
        if not isinstance(row, list) or len(row) != size:
            raise ValueError(f"{what}: every row wants {size} values, got {excerpt(row)}")
    limit = float(np.finfo(kind.value_type.to_pandas_dtype()).max)
    missing = field.name == CONTEXT
    return pa.array([[_float(what, v, limit, missing) for v in row] for row in rows], kind)


def _float(what: str, value: Any, limit: float, missing: bool) -> float:
    """A number, or NaN for one that is missing, where one may be."""
    if missing and (value is None or value != value):
        return math.nan
    return number(what, value, limit)
