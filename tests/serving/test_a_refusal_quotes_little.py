# SPDX-License-Identifier: Apache-2.0
"""A refusal carries back a few characters of a request, wherever they stood."""

from __future__ import annotations

import base64
import copy
import json
import struct
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import grpc
import pyarrow as pa
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from feature_repo.specs import SIMULATOR as SPEC
from serving.launch import NAME, Pair, Server
from serving.wire import encode_candidates
from tests.http_calls import call
from tests.serving_builders import NOW_MS, Grpc, SmallRun, candidates, history_value, instance

QUOTED = 60
WORDS = [f"k{i:04d}" for i in range(200)]
"""A text of which no two places are alike."""
PAYLOADS = {
    "one word": "".join(WORDS),
    "words": " ".join(WORDS),
    "lines": "\n".join(WORDS),
    "quotes": "'\"".join(WORDS),
}


def assert_clean(error: str, payload: str) -> None:
    """One line of at most 300 characters, no run of more than QUOTED of them the payload's."""
    assert 0 < len(error) <= 300
    assert error.isprintable()
    flat = " ".join(payload.split())
    for text in (payload, flat, repr(payload)):
        runs = (text[i : i + QUOTED + 1] for i in range(len(text) - QUOTED))
        assert not any(run in error for run in runs), error


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value of a JSON document; of a long list the first and the last."""
    yield path
    items: list[Any] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        ends = {0, len(value) - 1} if value else set()
        items = [(i, value[i]) for i in sorted(ends)]
    for key, inner in items:
        yield from places(inner, (*path, key))


def planted(whole: Any, path: tuple[Any, ...], payload: str) -> Iterator[Any]:
    """The document with the payload at one place.

    It is there as the value, in a list, as a key, among the keys, and as a number of as many
    digits.
    """
    digits = "".join(str(i % 10) for i in range(7, 700, 3))
    for value in (payload, [payload], {payload: payload}, int("9" + digits)):
        yield replaced(whole, path, lambda _, value=value: value)
    inner = whole
    for key in path:
        inner = inner[key]
    if isinstance(inner, dict):
        yield replaced(whole, path, lambda old: {**old, payload: 1})
    if path and isinstance(path[-1], str):
        renamed = replaced(whole, path[:-1], dict)
        parent = renamed
        for key in path[:-1]:
            parent = parent[key]
        parent[payload] = parent.pop(path[-1])
        yield renamed


def replaced(whole: Any, path: tuple[Any, ...], change: Any) -> Any:
    """A copy of a document with the value at a path changed."""
    if not path:
        return change(whole)
    copied = copy.copy(whole)
    copied[path[0]] = replaced(whole[path[0]], path[1:], change)
    return copied


def v1_body(server: Server, run: SmallRun) -> dict[str, Any]:
    if server.name == "predictor":
        payload = instance(SPEC, history_value(SPEC, 4, 1), candidates(SPEC, 2, 1))
    else:
        payload = {
            "member_id": run.members[0],
            "candidates": run.posts[:2],
            "time_ms": run.end_ms,
            "request": {"surface": 1},
            "weights": {"click": 1.0},
        }
    return {"instances": [payload], "deadline_ms": 20_000}


def inputs_of(server: Server, run: SmallRun) -> dict[str, bytes]:
    if server.name == "predictor":
        encoded = encode_candidates(SPEC, *candidates(SPEC, 2, 1))
        return {"history": history_value(SPEC, 4, 1), "candidates": encoded}
    return {"requests": arrow({"member_id": pa.array([1]), "candidates": pa.array([[1]])})}


def arrow(columns: dict[str, pa.Array], metadata: dict[str, str] | None = None) -> bytes:
    table = pa.table(columns).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def v2_body(server: Server, run: SmallRun) -> dict[str, Any]:
    parameters: dict[str, Any] = {"deadline_ms": 20_000, "binary_data_output": False}
    if server.name == "predictor":
        parameters |= {"request_time_ms": NOW_MS, "spec_hash": SPEC.hash}
    output = "probabilities" if server.name == "predictor" else "ranked"
    return {
        "id": "1",
        "model_name": NAME,
        "parameters": parameters,
        "inputs": [
            {
                "name": name,
                "shape": [1],
                "datatype": "BYTES",
                "parameters": {},
                "data": [base64.b64encode(value).decode()],
            }
            for name, value in inputs_of(server, run).items()
        ],
        "outputs": [{"name": output, "parameters": {"binary_data": False}}],
    }


@pytest.fixture(params=["predictor", "transformer"])
def server(request: pytest.FixtureRequest, servers: Pair) -> Server:
    return getattr(servers, request.param)


@pytest.mark.parametrize("kind", ["words", "quotes"])
@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_no_place_of_a_json_body_comes_back(
    server: Server, small_run: SmallRun, protocol: str, kind: str
) -> None:
    payload = PAYLOADS[kind]
    path = {"v1": f"/v1/models/{NAME}:predict", "v2": f"/v2/models/{NAME}/infer"}[protocol]
    whole = {"v1": v1_body, "v2": v2_body}[protocol](server, small_run)
    assert call("POST", server.url + path, json.dumps(whole).encode()).status == 200
    refused = 0
    for place in places(whole):
        for body in planted(whole, place, payload):
            answer = call("POST", server.url + path, json.dumps(body).encode())
            assert answer.status in (200, 400, 404, 415), (place, answer.body[:300])
            if answer.status != 200:
                refused += 1
                assert_clean(answer.error, payload)
    assert refused > 40


@pytest.mark.parametrize("kind", ["one word", "words"])
def test_no_header_and_no_address_comes_back(
    server: Server, small_run: SmallRun, kind: str
) -> None:
    payload = PAYLOADS[kind]
    body, path = json.dumps(v1_body(server, small_run)).encode(), f"/v1/models/{NAME}:predict"
    v2 = f"/v2/models/{NAME}"
    calls = [
        ("POST", path, body, [("content-type", payload)]),
        ("POST", path, body, [("content-type", f"application/json; charset={payload}")]),
        ("POST", path, body, [("content-encoding", payload)]),
        ("POST", path, payload.encode(), [("content-type", "application/json")]),
        ("POST", path, payload.encode(), []),
        ("POST", path, b'{"' + payload.encode() + b"\xff", []),
        ("POST", f"{v2}/infer", b"{}", [("inference-header-content-length", payload)]),
        ("POST", f"{path}?{quote(payload)}", body, []),
        ("POST", f"/v1/models/{quote(payload)}:predict", body, []),
        ("POST", f"{v2}/versions/{quote(payload)}/infer", b"{}", []),
        ("GET", f"{v2}/versions/{quote(payload)}", None, []),
        ("GET", f"/v2/models/{quote(payload)}/ready", None, []),
        ("GET", f"/{quote(payload)}", None, []),
    ]
    for method, address, sent, headers in calls:
        answer = call(method, server.url + address, sent, headers)
        assert answer.status in (400, 404, 415), (address, answer.body)
        assert_clean(answer.error, payload)


def test_no_part_of_an_arrow_value_comes_back(server: Server, small_run: SmallRun) -> None:
    """Names, types, values and metadata of a value that is Arrow and something else."""
    usual = {"member_id": pa.array([1]), "candidates": pa.array([[1]])}
    stub = Grpc(server.grpc).stub
    for payload in PAYLOADS.values():
        nested = pa.array([{payload: 1}])
        values = [
            payload.encode(),
            struct.pack("<I", 0xFFFFFFFF) + payload.encode(),
            arrow({payload: pa.array([1])}),
            arrow({**usual, payload: pa.array([1], pa.int32())}),
            *(arrow({**usual, name: nested}) for name in usual),
            *(arrow({**usual, name: pa.array([payload])}) for name in usual),
            arrow({**usual, "member_id": pa.array([payload]).dictionary_encode()}),
            arrow({**usual, "surface": pa.array([payload])}),
            arrow({**usual, "surface": nested}),
            arrow({"member_id": nested}, {payload: payload, "spec_hash": payload}),
        ]
        names = list(inputs_of(server, small_run))
        for name in names:
            for value in values:
                request = grpc_call(server, small_run)
                place = names.index(name)
                request.raw_input_contents[place] = struct.pack("<I", len(value)) + value
                assert_refused(stub, request, payload)


def grpc_call(server: Server, run: SmallRun) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=NAME)
    for name, value in inputs_of(server, run).items():
        request.inputs.add(name=name, datatype="BYTES", shape=[1])
        request.raw_input_contents.append(struct.pack("<I", len(value)) + value)
    if server.name == "predictor":
        request.parameters["request_time_ms"].int64_param = NOW_MS
    return request


def assert_refused(stub: Any, request: pb.ModelInferRequest, payload: str) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        stub.ModelInfer(request, timeout=30)
    assert refusal.value.code().name in ("INVALID_ARGUMENT", "NOT_FOUND")
    assert_clean(refusal.value.details(), payload)


def test_no_field_of_a_grpc_call_comes_back(server: Server, small_run: SmallRun) -> None:
    stub = Grpc(server.grpc).stub
    for payload in PAYLOADS.values():
        calls = [grpc_call(server, small_run) for _ in range(10)]
        calls[0].model_name = payload
        calls[1].model_version = payload
        calls[2].inputs[0].name = payload
        calls[3].inputs[0].datatype = payload
        calls[4].inputs[0].parameters[payload].int64_param = 1
        calls[5].parameters[payload].string_param = payload
        calls[6].parameters["deadline_ms"].string_param = payload
        calls[7].outputs.add(name=payload)
        calls[8].inputs[0].shape[:] = range(2, 900)
        both = calls[9].inputs[0]
        both.name = payload
        both.contents.bytes_contents.append(payload.encode())
        for request in calls:
            assert_refused(stub, request, payload)
    if server.name == "predictor":
        request = grpc_call(server, small_run)
        request.parameters["spec_hash"].string_param = PAYLOADS["words"]
        assert_refused(stub, request, PAYLOADS["words"])
