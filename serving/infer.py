# SPDX-License-Identifier: Apache-2.0
"""Small helpers over KServe's V2 messages: one BYTES input, plain parameters, deadlines.

Everything here runs under the decoding guard (`serving.errors.bad_input`) and raises ValueError.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from kserve import InferInput, InferOutput, InferRequest, InferResponse
from kserve.protocol.infer_type import to_http_parameters

MAX_TIME_MS = 253_402_214_400_000
"""The last day of the year 9999 (UTC): every earlier time has a date in every time zone."""
MAX_REQUESTS = 32
"""Most requests in one call: half of what a predictor lets wait, so that a call alone fits."""


def bytes_input(request: InferRequest, name: str) -> bytes:
    """The one value of BYTES input `name`; V2 JSON carries it as base64."""
    tensor = request.get_input_by_name(name)
    if tensor is None:
        raise ValueError(f"input {name!r} is missing")
    if tensor.datatype != "BYTES":
        raise ValueError(f"input {name!r} is {tensor.datatype}, want BYTES")
    values = tensor.as_numpy().reshape(-1)
    if len(values) != 1:
        raise ValueError(f"input {name!r} has {len(values)} values, want 1")
    return as_bytes(values[0])


def as_bytes(value: Any) -> bytes:
    """Bytes as they are, text as base64."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError(f"want base64 text, got {type(value).__name__}")
    return base64.b64decode(value, validate=True)


def parameters_of(request: InferRequest) -> dict[str, Any]:
    """The request's parameters as plain values."""
    return dict(to_http_parameters(request.parameters or {}))


def whole_number(values: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """An integer parameter within [0, MAX_TIME_MS); ValueError if absent without a default."""
    value = values.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} is {value!r}, want a whole number")
    if not 0 <= value < MAX_TIME_MS:
        raise ValueError(f"{name} is {value}, want 0 to {MAX_TIME_MS - 1}")
    return value


def deadline_of(values: Mapping[str, Any]) -> float | None:
    """`deadline_ms` (milliseconds from receipt) on the clock of `time.monotonic`; None where none
    is set.
    """
    if values.get("deadline_ms") is None:
        return None
    return time.monotonic() + whole_number(values, "deadline_ms") / 1000


def instances_of(payload: Any) -> list[Any]:
    """The requests of a V1 body, each unchecked; ValueError unless there are 1 to MAX_REQUESTS."""
    instances = payload.get("instances") if isinstance(payload, dict) else None
    if not isinstance(instances, list) or not instances:
        raise ValueError('want {"instances": [..]} with at least one request')
    check_requests(len(instances))
    return instances


def check_requests(count: int) -> None:
    """ValueError if one call has more than MAX_REQUESTS requests."""
    if count > MAX_REQUESTS:
        raise ValueError(
            f"the call has {count} requests, this server takes {MAX_REQUESTS}; split the call"
        )


def bytes_tensor(name: str, value: bytes) -> InferInput:
    """A BYTES [1] input, in binary form."""
    tensor = InferInput(name, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([value], dtype=np.object_))
    return tensor


def response(
    request: InferRequest, name: str, values: npt.NDArray[Any], parameters: Mapping[str, Any]
) -> InferResponse:
    """A response of one output; binary where the request was."""
    kind = "BYTES" if values.dtype == np.object_ else "FP32"
    output = InferOutput(name, list(values.shape), kind)
    binary = request.from_grpc or request.use_binary_outputs
    if kind == "BYTES" and not binary:
        encoded = [base64.b64encode(v).decode() for v in values]
        output.data = encoded
    else:
        output.set_data_from_numpy(values, binary_data=binary)
    return InferResponse(
        response_id=request.id or "",
        model_name=request.model_name,
        infer_outputs=[output],
        parameters=dict(parameters),
        from_grpc=request.from_grpc,
        use_binary_outputs=binary,
    )
