# SPDX-License-Identifier: Apache-2.0
"""Histories, candidates and calls for the serving tests, the same for the same seed."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import torch
from kserve import InferRequest, InferResponse
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from feature_repo.spec import DAY_MS, Spec
from serving.history import decode_history, encode_history
from serving.infer import bytes_tensor
from serving.launch import NAME
from serving.wire import RankRequest, encode_candidates
from tests.builders import make_columns, make_context

NOW_MS = 20_000 * DAY_MS + 12 * 3_600_000


def history_value(spec: Spec, rows: int, seed: int, now_ms: int = NOW_MS) -> bytes:
    """A member's history value of `rows` impressions in the days before `now_ms`; b"" for none."""
    if rows == 0:
        return b""
    generator = torch.Generator().manual_seed(seed)
    numbers = np.random.default_rng(seed)
    arrival = np.sort(now_ms - numbers.integers(1, 20 * DAY_MS, rows))
    columns: dict[str, Any] = {
        "event_time": arrival - numbers.integers(0, 60_000, rows),
        "arrival_time": arrival,
        "session_id": np.arange(rows) // 5,
        "timed": np.ones(rows, np.bool_),
        "position": numbers.integers(0, 30, rows).astype(np.int16),
    }
    drawn = make_columns((*spec.with_role("sequence"), *spec.with_role("action")), rows, generator)
    columns |= {name: tensor.numpy() for name, tensor in drawn.items()}
    arrays = [arrow(columns[f.name], f.type) for f in spec.history_schema]
    batch = pa.RecordBatch.from_arrays(arrays, schema=spec.history_schema)
    return encode_history(batch, member_id=seed, count=rows, spec=spec)


def arrow(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """A column of one or two dimensions."""
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), kind.list_size).cast(
            kind
        )
    return pa.array(values, kind)


def candidates(spec: Spec, count: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Random sequence features and context of `count` candidates."""
    generator = torch.Generator().manual_seed(seed)
    drawn = make_columns(spec.with_role("sequence"), count, generator)
    features = {name: tensor.numpy() for name, tensor in drawn.items()}
    return features, make_context(spec, count, generator).numpy()


def take(
    features: dict[str, np.ndarray], context: np.ndarray, rows: Any
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Some of the candidates."""
    return {name: column[rows] for name, column in features.items()}, context[rows]


def rank_request(spec: Spec, rows: int, count: int, seed: int) -> RankRequest:
    """A decoded request."""
    features, context = candidates(spec, count, seed)
    history = decode_history(history_value(spec, rows, seed), spec)
    return RankRequest(history=history, features=features, context_NC=context, time_ms=NOW_MS)


def message(
    spec: Spec, history: bytes, columns: tuple[dict[str, np.ndarray], np.ndarray], **extra: Any
) -> InferRequest:
    """A V2 call of the predictor; `extra` are more parameters, None takes one away."""
    parameters = {"request_time_ms": NOW_MS, "spec_hash": spec.hash, **extra}
    return raw_message(history, encode_candidates(spec, *columns), parameters)


def raw_message(history: bytes, encoded: bytes, parameters: dict[str, Any]) -> InferRequest:
    """A V2 call of the predictor out of any bytes."""
    kept = {name: value for name, value in parameters.items() if value is not None}
    tensors = [bytes_tensor("history", history), bytes_tensor("candidates", encoded)]
    return InferRequest(NAME, tensors, request_id="", parameters=kept)


class Grpc:
    """A blocking V2 client of one server."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.stub = GRPCInferenceServiceStub(self.channel)

    def infer(self, call: InferRequest, timeout: float = 30.0) -> InferResponse:
        """The answer; grpc.RpcError otherwise."""
        return InferResponse.from_grpc(self.stub.ModelInfer(call.to_grpc(), timeout=timeout))

    def status(self, call: InferRequest) -> tuple[str, str]:
        """The name of the status the call ends with, and its sentence."""
        try:
            self.infer(call)
        except grpc.RpcError as error:
            return error.code().name, str(error.details())
        return "OK", ""


def post(url: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """The HTTP status and the JSON of the answer; `body` is bytes or becomes JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"null")


def instance(
    spec: Spec, history: bytes, columns: tuple[dict[str, np.ndarray], np.ndarray]
) -> dict[str, Any]:
    """A V1 request of the predictor."""
    features, context = columns
    return {
        "history": base64.b64encode(history).decode(),
        "candidates": {n: plain(column) for n, column in features.items()},
        "context": plain(context),
        "request_time_ms": NOW_MS,
        "spec_hash": spec.hash,
    }


def plain(values: np.ndarray) -> list[Any]:
    """Lists of plain numbers, None for NaN."""
    return [
        plain(v) if isinstance(v, np.ndarray) else None if v != v else v.item() for v in values
    ]
