# SPDX-License-Identifier: Apache-2.0
"""V2 inference requests as they arrive, over REST and gRPC, in KServe's one form for both.

REST carries JSON, and after it the bytes of the tensors that say `binary_data_size` (the binary
tensor data extension of KServe and Triton). Every tensor here is BYTES. What is unknown at this
level is refused; the names of tensors and parameters are the model's business (`serving.infer`).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from typing import Any

from google.protobuf.unknown_fields import UnknownFieldSet
from kserve import InferInput, InferRequest
from kserve.protocol.grpc.grpc_predict_v2_pb2 import InferParameter, ModelInferRequest
from kserve.protocol.infer_type import RequestedOutput
from starlette.datastructures import Headers

from serving.excerpt import excerpt
from serving.payload import check_known
from serving.protocol.body import parse_json

LENGTH = "inference-header-content-length"
"""How many bytes of a REST body are its JSON; all of them where it is absent."""
BODY_KEYS = ("id", "model_name", "model_version", "parameters", "inputs", "outputs")
INPUT_KEYS = ("name", "shape", "datatype", "parameters", "data")
OUTPUT_KEYS = ("name", "parameters")
DOUBLE_FIELD, UINT64_FIELD = 4, 5
"""Kinds of InferParameter that the V2 protocol has gained since KServe's stubs were generated."""


def from_rest(body: bytes, headers: Headers, name: str) -> InferRequest:
    """The request of a REST body to model `name`; ValueError says what is wrong with it."""
    size = _json_size(body, headers)
    payload = _object(parse_json(body[:size], headers), "the body", BODY_KEYS)
    if _text(payload, "model_name", name) != name:
        raise ValueError(f"model_name is {excerpt(payload['model_name'])}, the address says {name}")
    return InferRequest(
        model_name=name,
        infer_inputs=_rest_inputs(payload, body, size),
        request_id=_text(payload, "id", ""),
        parameters=_parameters(payload),
        request_outputs=[
            RequestedOutput(_text(output, "name"), _parameters(output))
            for output in _objects(payload, "outputs", OUTPUT_KEYS, [])
        ],
        model_version=_text(payload, "model_version", ""),
    )


def from_grpc(call: ModelInferRequest) -> InferRequest:
    """The request of a gRPC call; ValueError says what is wrong with it."""
    raw = list(call.raw_input_contents)
    if raw and len(raw) != len(call.inputs):
        raise ValueError(f"the call has {len(call.inputs)} inputs and {len(raw)} raw contents")
    inputs = []
    for place, tensor in enumerate(call.inputs):
        if raw and tensor.HasField("contents"):
            raise ValueError(f"input {excerpt(tensor.name)} has raw and typed contents; send one")
        plain = InferInput(
            tensor.name,
            list(tensor.shape),
            tensor.datatype,
            data=None if raw else list(tensor.contents.bytes_contents),
            parameters=plain_parameters(tensor.parameters),
        )
        plain._raw_data = raw[place] if raw else None
        inputs.append(plain)
    return InferRequest(
        model_name=call.model_name,
        infer_inputs=inputs,
        request_id=call.id,
        from_grpc=True,
        parameters=plain_parameters(call.parameters),
        request_outputs=[
            RequestedOutput(o.name, plain_parameters(o.parameters)) for o in call.outputs
        ],
        model_version=call.model_version,
    )


def plain_parameters(parameters: Mapping[str, InferParameter]) -> dict[str, Any]:
    """gRPC's parameters as plain values; ValueError for one without a value."""
    return {name: _plain(name, value) for name, value in parameters.items()}


def _plain(name: str, value: InferParameter) -> bool | int | str | float:
    kind = value.WhichOneof("parameter_choice")
    if kind is not None:
        return getattr(value, kind)
    for field in UnknownFieldSet(value):
        if field.field_number == DOUBLE_FIELD:
            return struct.unpack("<d", struct.pack("<Q", field.data))[0]
        if field.field_number == UINT64_FIELD:
            return field.data
    raise ValueError(f"parameter {excerpt(name)} has no value")


def _rest_inputs(payload: Mapping[str, Any], body: bytes, start: int) -> list[InferInput]:
    """The tensors, whose binary data follows the JSON in their order."""
    tensors = []
    for value in _objects(payload, "inputs", INPUT_KEYS):
        tensor = _rest_input(value, len(body) - start)
        size = tensor.parameters.get("binary_data_size")
        if size is not None:
            tensor._raw_data = body[start : start + size]
            start += size
        tensors.append(tensor)
    if start < len(body):
        raise ValueError(f"the body has {len(body) - start} bytes that belong to no input")
    return tensors


def _rest_input(value: Mapping[str, Any], left: int) -> InferInput:
    """A tensor with its data, if it is in the JSON and not among the `left` bytes after it."""
    name, parameters = excerpt(_text(value, "name")), _parameters(value)
    size, data = parameters.get("binary_data_size"), value.get("data")
    if size is None:
        _list(data, f"the data of input {name}")
    elif data is not None:
        raise ValueError(f"input {name} has data and binary_data_size; send one")
    elif type(size) is not int or not 0 <= size <= left:
        raise ValueError(
            f"binary_data_size of input {name} is {excerpt(size)}, {left} bytes are left"
        )
    shape = _list(value.get("shape"), f"the shape of input {name}")
    return InferInput(value["name"], shape, _text(value, "datatype"), data, parameters)


def _json_size(body: bytes, headers: Headers) -> int:
    named = headers.getlist(LENGTH)
    if not named:
        return len(body)
    text = named[0].strip()
    if len(named) > 1 or not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise ValueError(f"{LENGTH} is {excerpt(', '.join(named))}, want a number of bytes")
    if int(text) > len(body):
        raise ValueError(f"{LENGTH} is {text}, the body has {len(body)} bytes")
    return int(text)


def _object(value: Any, what: str, keys: Collection[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {excerpt(value)}, want an object")
    check_known(f"the key of {what}", value, keys)
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} is {excerpt(value)}, want a list")
    return value


def _objects(
    value: Mapping[str, Any], key: str, keys: Collection[str], default: list[Any] | None = None
) -> list[dict[str, Any]]:
    named = default if value.get(key) is None else value[key]
    return [_object(item, f"one of the {key}", keys) for item in _list(named, key)]


def _text(value: Mapping[str, Any], key: str, default: str | None = None) -> str:
    text = default if value.get(key) is None else value[key]
    if not isinstance(text, str) or text != text.encode(errors="replace").decode():
        raise ValueError(f"{key} is {excerpt(text)}, want text")
    return text


def _parameters(value: Mapping[str, Any]) -> dict[str, Any]:
    parameters = value.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise ValueError(f"parameters is {excerpt(parameters)}, want an object")
    return parameters or {}
