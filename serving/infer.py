# SPDX-License-Identifier: Apache-2.0
"""What both models read out of a request and write into an answer.

That is one BYTES input, plain parameters and a deadline, and one output. Everything that reads runs
under the decoding guard (`serving.errors.bad_input`) and raises ValueError.
"""

from __future__ import annotations

import base64
import re
import struct
import time
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from kserve import InferInput, InferOutput, InferRequest, InferResponse

from serving.excerpt import excerpt
from serving.payload import check_known, whole

MAX_TIME_MS = 253_402_214_400_000
"""The last day of the year 9999 (UTC): every earlier time has a date in every time zone."""
MAX_REQUESTS = 32
"""Most requests in one call: half of what a predictor lets wait, so that a call alone fits."""
CALL_KEYS = ("instances", "deadline_ms")
"""What a V1 body may say."""
BINARY_OUTPUT = "binary_data_output"
"""V2's parameter that asks for every output in binary form."""


def check_message(
    request: InferRequest,
    *,
    inputs: Collection[str],
    outputs: Collection[str],
    parameters: Collection[str],
) -> None:
    """ValueError for a tensor or a parameter that is unknown at any level, or named twice."""
    _check_once("input", [tensor.name for tensor in request.inputs], inputs)
    for tensor in request.inputs:
        check_known("the input's parameter", tensor.parameters or {}, ("binary_data_size",))
    wanted = request.request_outputs or []
    _check_once("output", [output.name for output in wanted], outputs)
    for output in wanted:
        check_known("the output's parameter", output.parameters or {}, ("binary_data",))
        _flag("binary_data", output.parameters or {})
    check_known("parameter", request.parameters or {}, (*parameters, BINARY_OUTPUT))
    _flag(BINARY_OUTPUT, request.parameters or {})


def bytes_input(request: InferRequest, name: str) -> bytes:
    """The value of BYTES input `name`, whose shape holds one; V2 JSON carries it as base64."""
    tensor = request.get_input_by_name(name)
    if tensor is None:
        raise ValueError(f"input {name!r} is missing")
    if tensor.datatype != "BYTES":
        raise ValueError(f"input {name!r} is {excerpt(tensor.datatype)}, want 'BYTES'")
    if any(isinstance(size, bool) or size != 1 for size in tensor.shape):
        raise ValueError(f"input {name!r} has shape {excerpt(tensor.shape)}, want [1]")
    if tensor._raw_data is not None:
        return _raw_value(tensor, tensor._raw_data)
    values = tensor.data
    while isinstance(values, list) and len(values) == 1:
        values = values[0]
    if isinstance(values, list):
        raise ValueError(f"input {name!r} has {len(values)} values, want 1")
    return as_bytes(values)


def as_bytes(value: Any) -> bytes:
    """Bytes as they are, text as base64."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError(f"want base64 text, got {excerpt(value)}")
    try:
        return base64.b64decode(value, validate=True)
    except ValueError as error:
        raise ValueError(f"{excerpt(value)} is no base64: {error}") from error


def parameters_of(request: InferRequest, numbers: Collection[str]) -> dict[str, Any]:
    """The request's parameters as plain values; those of `numbers` may come as text, in digits."""
    values = dict(request.parameters or {})
    for name in numbers:
        if isinstance(values.get(name), str) and re.fullmatch("[0-9]{1,20}", values[name]):
            values[name] = int(values[name])
    return values


def deadline_of(values: Mapping[str, Any]) -> float | None:
    """The deadline on the clock of `time.monotonic`, or None.

    `deadline_ms` is sent as milliseconds from receipt.
    """
    if values.get("deadline_ms") is None:
        return None
    return time.monotonic() + whole("deadline_ms", values["deadline_ms"], 0, MAX_TIME_MS) / 1000


def instances_of(payload: Any) -> list[Any]:
    """The requests of a V1 body, each unchecked; ValueError unless there are 1 to MAX_REQUESTS."""
    instances = payload.get("instances") if isinstance(payload, dict) else None
    if not isinstance(instances, list) or not instances:
        raise ValueError('want {"instances": [..]} with at least one request')
    check_known("the key of the body", payload, CALL_KEYS)
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
    request: InferRequest,
    name: str,
    values: npt.NDArray[Any],
    version: str,
    parameters: Mapping[str, Any],
) -> InferResponse:
    """A response of one output: over gRPC in binary form, over REST as it was asked for."""
    kind = "BYTES" if values.dtype == np.object_ else "FP32"
    output = InferOutput(name, list(values.shape), kind)
    binary = request.from_grpc or _wants_binary(request, name)
    if kind == "BYTES" and not binary:
        output.data = [base64.b64encode(v).decode() for v in values]
    else:
        output.set_data_from_numpy(values, binary_data=binary)
    return InferResponse(
        response_id=request.id or "",
        model_name=request.model_name,
        model_version=version,
        infer_outputs=[output],
        parameters={**parameters, "model_version": version},
        from_grpc=request.from_grpc,
        use_binary_outputs=binary,
    )


def _wants_binary(request: InferRequest, name: str) -> bool:
    """What a REST request says of output `name`, or else of all outputs."""
    flags = [o.binary_data for o in request.request_outputs or [] if o.name == name]
    every = bool((request.parameters or {}).get(BINARY_OUTPUT, False))
    return every if flags in ([], [None]) else bool(flags[0])


def _raw_value(tensor: InferInput, raw: bytes) -> bytes:
    """The bytes behind their own length: four bytes, little-endian."""
    declared = (tensor.parameters or {}).get("binary_data_size", len(raw))
    size = struct.unpack_from("<I", raw)[0] if len(raw) >= 4 else None
    if declared != len(raw) or size != len(raw) - 4:
        raise ValueError(
            f"input {tensor.name!r} has {len(raw)} bytes, want one value behind its length in four"
        )
    return raw[4:]


def _check_once(what: str, names: list[str], known: Collection[str]) -> None:
    check_known(what, names, known)
    twice = [name for name in known if names.count(name) > 1]
    if twice:
        raise ValueError(f"{what} {twice[0]!r} is there twice")


def _flag(name: str, parameters: Mapping[str, Any]) -> None:
    if not isinstance(parameters.get(name, False), bool):
        raise ValueError(f"{name} is {excerpt(parameters[name])}, want true or false")
