# SPDX-License-Identifier: Apache-2.0
"""V2 over REST to real servers, by KServe's own client and in the bytes of Triton's."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import struct
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from kserve import InferenceRESTClient, InferInput, InferRequest, InferResponse
from kserve.inference_client import RESTConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.infer_type import RequestedOutput

from feature_repo.specs import SIMULATOR as SPEC
from serving.launch import NAME, Pair
from tests.http_calls import Answer, call
from tests.serving_builders import NOW_MS, Grpc, SmallRun
from tests.v2_calls import BOUND, CANDIDATES, HISTORY, INPUTS, PARAMETERS, scores_of

LENGTH = "inference-header-content-length"


@pytest.fixture(scope="module")
def scores(servers: Pair) -> np.ndarray:
    return scores_of(servers)


def feed_requests(run: SmallRun) -> bytes:
    """Two requests as the transformer's Arrow input."""
    columns = {
        "member_id": pa.array(run.members[:2], pa.int64()),
        "candidates": pa.array([run.posts[:6], run.posts[3:5]], pa.list_(pa.int64())),
        "time_ms": pa.array([run.end_ms, run.end_ms], pa.int64()),
    }
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def tensor(name: str, value: Any, **changes: Any) -> dict[str, Any]:
    """An input as V2 JSON."""
    data = [b64(value)] if isinstance(value, bytes) else value
    return {"name": name, "shape": [1], "datatype": "BYTES", "data": data, **changes}


def body(**changes: Any) -> dict[str, Any]:
    """The predictor's call as V2 JSON; a change to None leaves the key out."""
    whole = {
        "inputs": [tensor(name, value) for name, value in INPUTS.items()],
        "parameters": PARAMETERS,
        **changes,
    }
    return {key: value for key, value in whole.items() if value is not None}


def infer(url: str, data: bytes, headers: dict[str, str] | None = None) -> Answer:
    return call("POST", f"{url}/v2/models/{NAME}/infer", data, (headers or {}).items())


def infer_json(url: str, payload: Any) -> Answer:
    return infer(url, json.dumps(payload).encode(), {"content-type": "application/json"})


def test_json_with_base64_answers_as_grpc_does(servers: Pair, scores: np.ndarray) -> None:
    answer = infer_json(servers.predictor.url, body(id="seven"))
    assert answer.status == 200, answer.body
    reply = answer.json
    [output] = reply["outputs"]
    assert output["shape"] == [5, 6]
    assert (output["name"], output["datatype"]) == ("probabilities", "FP32")
    got = np.array(output["data"], np.float32).reshape(5, 6)
    np.testing.assert_allclose(got, scores, atol=BOUND)
    assert reply["id"] == "seven"
    assert reply["model_name"] == NAME
    assert reply["model_version"] == reply["parameters"]["model_version"]
    assert reply["parameters"]["tasks"].split(",") == list(SPEC.task_names)


def kserve_input(name: str, value: bytes, binary: bool) -> InferInput:
    tensor = InferInput(name, [1], "BYTES")
    given = value if binary else b64(value)
    tensor.set_data_from_numpy(np.array([given], dtype=np.object_), binary_data=binary)
    return tensor


def kserve_call(url: str, request: InferRequest) -> InferResponse:
    async def ask() -> InferResponse:
        async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
            return await client.infer(url, request, model_name=NAME)

    return asyncio.run(ask())


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("asked", [None, True, False])
def test_kserves_own_client_gets_the_scores(
    servers: Pair, scores: np.ndarray, binary: bool, asked: bool | None
) -> None:
    outputs = None if asked is None else [RequestedOutput("probabilities", {"binary_data": asked})]
    inputs = [kserve_input(name, value, binary) for name, value in INPUTS.items()]
    request = InferRequest(NAME, inputs, parameters=dict(PARAMETERS), request_outputs=outputs)
    reply = kserve_call(servers.predictor.url, request)
    np.testing.assert_allclose(reply.outputs[0].as_numpy(), scores, atol=BOUND)


@pytest.mark.parametrize("binary", [True, False])
def test_kserves_own_client_gets_the_ranked_feed(
    servers: Pair, small_run: SmallRun, binary: bool
) -> None:
    """KServe's client reads binary BYTES as text, so it asks for JSON, which carries base64."""
    data = feed_requests(small_run)
    request = InferRequest(NAME, [kserve_input("requests", data, binary)])
    reply = kserve_call(servers.transformer.url, request)
    [value] = reply.outputs[0].as_numpy()
    got = pa.ipc.open_stream(base64.b64decode(value)).read_all()
    whole = Grpc(servers.transformer.grpc).infer(
        InferRequest(NAME, [kserve_input("requests", data, True)], request_id="")
    )
    want = pa.ipc.open_stream(whole.outputs[0].as_numpy()[0]).read_all()
    assert got.schema == want.schema
    assert got["post_id"] == want["post_id"]
    assert got["score"].to_pylist() == pytest.approx(want["score"].to_pylist(), abs=6 * BOUND)


def triton_body(
    values: dict[str, bytes], parameters: dict[str, Any], rest: dict[str, Any]
) -> tuple[bytes, int]:
    """The body of tritonclient 2.73 over HTTP, byte by byte, and the length of its JSON.

    That is compact JSON, then each tensor's values behind their lengths.
    """
    raw = [struct.pack("<I", len(value)) + value for value in values.values()]
    inputs = [
        {
            "name": name,
            "shape": [1],
            "datatype": "BYTES",
            "parameters": {"binary_data_size": len(packed)},
        }
        for name, packed in zip(values, raw, strict=True)
    ]
    head = {"inputs": inputs, **rest, "parameters": parameters}
    text = json.dumps(head, separators=(",", ":")).encode()
    return b"".join([text, *raw]), len(text)


def binary_value(answer: Answer) -> tuple[dict[str, Any], bytes]:
    """The JSON and the bytes behind it of a binary answer."""
    size = int(answer.headers[LENGTH])
    return json.loads(answer.body[:size]), answer.body[size:]


@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
def test_the_bytes_of_tritons_client_get_the_scores(
    servers: Pair, scores: np.ndarray, encoding: str | None
) -> None:
    """It names no content type, and asks for all outputs in binary form where it names none."""
    data, size = triton_body(INPUTS, {"binary_data_output": True, **PARAMETERS}, {})
    packed = {None: data, "gzip": gzip.compress(data), "deflate": zlib.compress(data)}
    headers = {"User-Agent": "python/gevent", "Inference-Header-Content-Length": str(size)}
    if encoding:
        headers["Content-Encoding"] = encoding
    answer = infer(servers.predictor.url, packed[encoding], headers)
    assert answer.status == 200, answer.body
    head, rest = binary_value(answer)
    assert head["outputs"] == [
        {
            "name": "probabilities",
            "shape": [5, 6],
            "datatype": "FP32",
            "parameters": {"binary_data_size": 120},
        }
    ]
    np.testing.assert_allclose(np.frombuffer(rest, np.float32).reshape(5, 6), scores, atol=BOUND)


def test_the_bytes_of_tritons_client_get_the_ranked_feed(
    servers: Pair, small_run: SmallRun
) -> None:
    data, size = triton_body(
        {"requests": feed_requests(small_run)}, {"binary_data_output": True}, {}
    )
    answer = infer(servers.transformer.url, data, {LENGTH: str(size)})
    assert answer.status == 200, answer.body
    head, rest = binary_value(answer)
    [value] = head["outputs"]
    assert value["parameters"]["binary_data_size"] == len(rest)
    assert struct.unpack_from("<I", rest)[0] == len(rest) - 4
    table = pa.ipc.open_stream(rest[4:]).read_all()
    assert table["request"].to_pylist() == [0] * 6 + [1] * 2
    assert head["model_version"] == table.schema.metadata[b"model_version"].decode()


@pytest.mark.parametrize(
    ("every", "output", "binary"),
    [
        (None, None, False),
        (True, None, True),
        (False, None, False),
        (None, True, True),
        (None, False, False),
        (True, False, False),
        (False, True, True),
        (True, "named", True),
        (None, "named", False),
    ],
)
@pytest.mark.parametrize("server", ["predictor", "transformer"])
def test_an_output_comes_as_it_was_asked_for(
    servers: Pair, small_run: SmallRun, server: str, every: Any, output: Any, binary: bool
) -> None:
    name = {"predictor": "probabilities", "transformer": "ranked"}[server]
    plain = {"inputs": [tensor("requests", feed_requests(small_run))]}
    payload = body() if server == "predictor" else plain
    if every is not None:
        payload["parameters"] = {**payload.get("parameters", {}), "binary_data_output": every}
    if output is not None:
        wanted = {} if output == "named" else {"parameters": {"binary_data": output}}
        payload["outputs"] = [{"name": name, **wanted}]
    answer = infer_json(getattr(servers, server).url, payload)
    assert answer.status == 200, answer.body
    assert (LENGTH in answer.headers) is binary
    head = binary_value(answer)[0] if binary else answer.json
    assert ("data" in head["outputs"][0]) is not binary


@pytest.mark.parametrize(
    ("server", "inputs", "output"),
    [
        ("predictor", ["history", "candidates"], ("probabilities", "FP32", [-1, 6])),
        ("transformer", ["requests"], ("ranked", "BYTES", [1])),
    ],
)
def test_metadata_say_what_is_taken_and_given(
    servers: Pair, small_run: SmallRun, server: str, inputs: list[str], output: tuple[Any, ...]
) -> None:
    process = getattr(servers, server)
    versions = [f"{small_run.day}-test"] if server == "predictor" else []
    got = call("GET", f"{process.url}/v2/models/{NAME}").json
    assert got["inputs"] == [{"name": n, "datatype": "BYTES", "shape": [1]} for n in inputs]
    assert got["outputs"] == [dict(zip(("name", "datatype", "shape"), output, strict=True))]
    assert got.get("versions", []) == versions
    told = Grpc(process.grpc).stub.ModelMetadata(pb.ModelMetadataRequest(name=NAME))
    assert list(told.versions) == versions
    assert [(t.name, t.datatype, list(t.shape)) for t in told.inputs] == [
        (n, "BYTES", [1]) for n in inputs
    ]
    assert [(t.name, t.datatype, list(t.shape)) for t in told.outputs] == [output]


SAME = {
    "another shape of one value": {"shape": [1, 1]},
    "a scalar": {"shape": []},
    "a datatype in lower case": {"datatype": "bytes"},
    "data nested as the shape is": {"shape": [1, 1], "data": [[b64(HISTORY)]]},
    "no parameters": {"parameters": None},
}


@pytest.mark.parametrize("name", SAME)
def test_what_means_the_same_is_taken(servers: Pair, scores: np.ndarray, name: str) -> None:
    inputs = [tensor("candidates", CANDIDATES), tensor("history", HISTORY, **SAME[name])]
    answer = infer_json(servers.predictor.url, body(inputs=inputs, outputs=[], model_name=NAME))
    assert answer.status == 200, answer.body
    got = np.array(answer.json["outputs"][0]["data"], np.float32).reshape(5, 6)
    np.testing.assert_allclose(got, scores, atol=BOUND)


@pytest.mark.parametrize("value", [NOW_MS, float(NOW_MS), str(NOW_MS)])
def test_a_number_is_taken_in_the_ways_a_parameter_has(servers: Pair, value: Any) -> None:
    parameters = {**PARAMETERS, "request_time_ms": value}
    assert infer_json(servers.predictor.url, body(parameters=parameters)).status == 200


def changed(**changes: Any) -> dict[str, Any]:
    """The call, with its history changed."""
    history = {**tensor("history", HISTORY), **changes}
    return body(inputs=[history, tensor("candidates", CANDIDATES)])


def with_parameters(**changes: Any) -> dict[str, Any]:
    return body(parameters={**PARAMETERS, **changes})


OUTPUT = {"name": "probabilities"}
REFUSED: dict[str, tuple[Any, str]] = {
    "a list": ([], "the body is [], want an object"),
    "an unknown key": (body(colour=1), "'colour'"),
    "no inputs": (body(inputs=None), "inputs is None, want a list"),
    "an input that is a number": (body(inputs=[7]), "7, want an object"),
    "an input that is unknown": (
        body(inputs=[*body()["inputs"], tensor("colour", b"x")]),
        "input 'colour' is unknown",
    ),
    "an input that is there twice": (
        body(inputs=[*body()["inputs"], tensor("history", b"")]),
        "input 'history' is there twice",
    ),
    "an input that is missing": (body(inputs=body()["inputs"][:1]), "'candidates' is missing"),
    "an input's unknown key": (changed(colour=1), "'colour'"),
    "an input without a name": (changed(name=None), "name is None, want text"),
    "an input without a shape": (changed(shape=None), "shape"),
    "an input without data": (changed(data=None), "data of input 'history'"),
    "an input in shared memory": (
        changed(parameters={"shared_memory_region": "r"}),
        "'shared_memory_region' is unknown",
    ),
    "another datatype": (changed(datatype="FP32"), "'FP32', want 'BYTES'"),
    "a shape of two": (changed(shape=[2]), "shape [2], want [1]"),
    "a shape of none": (changed(shape=[0]), "shape [0], want [1]"),
    "a negative shape": (changed(shape=[-1, -1]), "shape [-1, -1], want [1]"),
    "a shape that is true": (changed(shape=[True]), "shape [True], want [1]"),
    "two values": (changed(data=["", ""]), "has 2 values, want 1"),
    "no value": (changed(data=[]), "has 0 values, want 1"),
    "a value that is a number": (changed(data=[1]), "want base64 text, got 1"),
    "a value that is no base64": (changed(data=["***"]), "'***' is no base64"),
    "text that is no base64": (changed(data=["ü"]), "is no base64"),
    "data and a size": (
        changed(parameters={"binary_data_size": 4}),
        "data and binary_data_size",
    ),
    "a size beyond the body": (
        changed(data=None, parameters={"binary_data_size": 4}),
        "is 4, 0 bytes are left",
    ),
    "an unknown parameter": (with_parameters(colour=1), "parameter 'colour' is unknown"),
    "parameters that are a list": (body(parameters=[1]), "parameters is [1], want an object"),
    "a time that is true": (with_parameters(request_time_ms=True), "request_time_ms is True"),
    "a time with a fraction": (with_parameters(request_time_ms=NOW_MS + 0.5), "whole number"),
    "a time in seconds": (with_parameters(request_time_ms=NOW_MS // 1000), "seconds"),
    "no time": (body(parameters={}), "request_time_ms is None"),
    "a deadline below zero": (with_parameters(deadline_ms=-1), "deadline_ms is -1"),
    "a deadline in words": (with_parameters(deadline_ms="soon"), "deadline_ms is 'soon'"),
    "another spec": (with_parameters(spec_hash="0123456789abcdef"), "spec"),
    "a spec that is a number": (with_parameters(spec_hash=7), "spec"),
    "an output that is unknown": (body(outputs=[{"name": "colour"}]), "output 'colour'"),
    "an output that is asked for twice": (body(outputs=[OUTPUT, OUTPUT]), "is there twice"),
    "an output's unknown key": (body(outputs=[{**OUTPUT, "shape": [1]}]), "'shape'"),
    "an output's unknown parameter": (
        body(outputs=[{**OUTPUT, "parameters": {"classification": 1}}]),
        "'classification' is unknown",
    ),
    "a binary that is a number": (
        body(outputs=[{**OUTPUT, "parameters": {"binary_data": 1}}]),
        "binary_data is 1, want true or false",
    ),
    "a binary for all that is text": (
        with_parameters(binary_data_output="yes"),
        "binary_data_output is 'yes', want true or false",
    ),
    "outputs that are an object": (body(outputs={}), "outputs is {}, want a list"),
    "an id that is a number": (body(id=7), "id is 7, want text"),
    "another model": (body(model_name="other"), "model_name is 'other', the address says feed-sr"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_unknown_or_malformed_is_400_and_named(servers: Pair, name: str) -> None:
    payload, said = REFUSED[name]
    answer = infer_json(servers.predictor.url, payload)
    assert answer.status == 400, answer.body
    assert said in answer.error


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"inputs": [{"name": "colour", "shape": [1], "datatype": "BYTES", "data": [""]}]},
            "colour",
        ),
        ({"parameters": {"request_time_ms": NOW_MS}}, "parameter 'request_time_ms' is unknown"),
        ({"outputs": [{"name": "probabilities"}]}, "output 'probabilities' is unknown"),
        ({"parameters": {"deadline_ms": True}}, "deadline_ms is True"),
    ],
)
def test_the_transformer_refuses_alike(
    servers: Pair, small_run: SmallRun, changes: dict[str, Any], said: str
) -> None:
    payload = {"inputs": [tensor("requests", feed_requests(small_run))], **changes}
    answer = infer_json(servers.transformer.url, payload)
    assert answer.status == 400, answer.body
    assert said in answer.error


@pytest.mark.parametrize("value", [0, "0", 0.0])
@pytest.mark.parametrize("server", ["predictor", "transformer"])
def test_a_deadline_counts_in_every_form(
    servers: Pair, small_run: SmallRun, server: str, value: Any
) -> None:
    payload = with_parameters(deadline_ms=value)
    if server == "transformer":
        payload = {"inputs": [tensor("requests", feed_requests(small_run))]}
        payload["parameters"] = {"deadline_ms": value}
    assert infer_json(getattr(servers, server).url, payload).status == 504


@pytest.mark.parametrize(
    ("length", "status"),
    [
        (lambda size, _: str(size), 200),
        (lambda size, _: f" {size} ", 200),
        (lambda size, _: str(size - 1), 400),
        (lambda size, _: str(size + 1), 400),
        (lambda size, _: f"+{size}", 400),
        (lambda size, _: f"{size}.0", 400),
        (lambda size, _: f"-{size}", 400),
        (lambda size, _: "", 400),
        (lambda size, _: "9" * 5000, 400),
        (lambda _, whole: str(whole), 400),
        (lambda _, whole: str(whole + 1), 400),
    ],
)
def test_the_length_of_the_json_is_exact(servers: Pair, length: Any, status: int) -> None:
    data, size = triton_body(INPUTS, PARAMETERS, {})
    answer = infer(servers.predictor.url, data, {LENGTH: length(size, len(data))})
    assert answer.status == status, answer.body


@pytest.mark.parametrize("change", [-5, -1, 1, 4])
def test_binary_data_of_another_size_is_400(servers: Pair, change: int) -> None:
    data, size = triton_body(INPUTS, PARAMETERS, {})
    longer = data[:change] if change < 0 else data + b"x" * change
    answer = infer(servers.predictor.url, longer, {LENGTH: str(size)})
    assert answer.status == 400
    assert "bytes" in answer.error


def test_a_version_that_is_served_may_be_named(servers: Pair, small_run: SmallRun) -> None:
    version = f"{small_run.day}-test"
    assert infer_json(servers.predictor.url, body(model_version=version)).status == 200
    answer = infer_json(servers.predictor.url, body(model_version="7"))
    assert answer.status == 404
    assert version in answer.error
    for server in (servers.predictor, servers.transformer):
        base = f"{server.url}/v2/models/{NAME}/versions"
        knows = server is servers.predictor
        for ending in ("", "/ready"):
            assert call("GET", f"{base}/7{ending}").status == 404
            wanted = 200 if knows else 404
            assert call("GET", f"{base}/{version}{ending}").status == wanted
    data = json.dumps(body()).encode()
    base = f"{servers.predictor.url}/v2/models/{NAME}/versions"
    assert call("POST", f"{base}/{version}/infer", data).status == 200
    assert call("POST", f"{base}/7/infer", data).status == 404
