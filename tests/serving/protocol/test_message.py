# SPDX-License-Identifier: Apache-2.0
"""V2 requests out of bytes and out of protobuf: every limit by hand."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from kserve import InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from starlette.datastructures import Headers

from serving.protocol.message import from_grpc, from_rest, plain_parameters

LENGTH = "inference-header-content-length"


def parsed(payload: Any, behind: bytes = b"", length: str | None = None) -> InferRequest:
    """A REST body with bytes behind its JSON."""
    text = json.dumps(payload).encode()
    named = {LENGTH: str(len(text)) if length is None else length} if behind or length else {}
    return from_rest(text + behind, Headers(named), "m")


def tensor(**changes: Any) -> dict[str, Any]:
    whole = {"name": "a", "shape": [1], "datatype": "BYTES", "data": ["eA=="], **changes}
    return {key: value for key, value in whole.items() if value is not None}


def sized(size: Any, name: str = "a") -> dict[str, Any]:
    return tensor(name=name, data=None, parameters={"binary_data_size": size})


def test_a_rest_body_is_read_whole() -> None:
    request = parsed(
        {
            "id": "i",
            "model_name": "m",
            "model_version": "7",
            "parameters": {"p": 3},
            "inputs": [tensor(shape=[1, 1], datatype="bytes", parameters={"q": 4})],
            "outputs": [{"name": "o", "parameters": {"binary_data": True}}, {"name": "u"}],
        }
    )
    assert (request.id, request.model_name, request.model_version) == ("i", "m", "7")
    assert request.parameters == {"p": 3}
    assert request.from_grpc is False
    [given] = request.inputs
    assert (given.name, given.shape, given.datatype, given.data) == (
        "a", [1, 1], "BYTES", ["eA=="],
    )  # fmt: skip
    assert given.parameters == {"q": 4}
    assert given._raw_data is None
    wanted = request.request_outputs
    assert [(o.name, o.parameters) for o in wanted] == [("o", {"binary_data": True}), ("u", {})]


def test_what_a_rest_body_leaves_out_is_empty() -> None:
    for rest in ({}, {"id": None, "parameters": None, "outputs": None, "model_version": None}):
        request = parsed({"inputs": [], **rest})
        assert (request.id, request.model_name, request.model_version) == ("", "m", "")
        assert (request.parameters, request.inputs, request.request_outputs) == ({}, [], [])


def test_bytes_behind_the_json_go_to_their_inputs_in_order() -> None:
    inputs = [sized(3, "a"), tensor(name="b"), sized(0, "c"), sized(2, "d")]
    request = parsed({"inputs": inputs}, b"12345")
    assert [given._raw_data for given in request.inputs] == [b"123", None, b"", b"45"]
    assert [given.data for given in request.inputs] == [None, ["eA=="], None, None]


@pytest.mark.parametrize(
    ("inputs", "behind", "said"),
    [
        ([sized(3)], b"12", "binary_data_size of input 'a' is 3, 2 bytes are left"),
        ([sized(2), sized(1, "b")], b"12", "binary_data_size of input 'b' is 1, 0 bytes are left"),
        ([sized(-1)], b"12", "is -1, 2 bytes"),
        ([sized(True)], b"12", "is True, 2 bytes"),
        ([sized(2.0)], b"12", "is 2.0, 2 bytes"),
        ([sized("2")], b"12", "is '2', 2 bytes"),
        ([sized(1)], b"12", "the body has 1 bytes that belong to no input"),
        ([tensor()], b"x", "the body has 1 bytes that belong to no input"),
        ([tensor(parameters={"binary_data_size": 1})], b"x", "has data and binary_data_size"),
    ],
)
def test_sizes_are_exact(inputs: list[Any], behind: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parsed({"inputs": inputs}, behind)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ([], r"the body is \[\], want an object"),
        ({"inputs": [], "colour": 1}, "the key of the body 'colour' is unknown; have id, model"),
        ({"inputs": {}}, r"inputs is \{\}, want a list"),
        ({}, "inputs is None, want a list"),
        ({"inputs": [3]}, "one of the inputs is 3, want an object"),
        ({"inputs": [tensor(name=3)]}, "name is 3, want text"),
        ({"inputs": [tensor(name=None)]}, "name is None, want text"),
        ({"inputs": [tensor(colour=3)]}, "one of the inputs 'colour' is unknown"),
        ({"inputs": [tensor(shape=1)]}, "the shape of input 'a' is 1, want a list"),
        ({"inputs": [tensor(shape=None)]}, "the shape of input 'a' is None, want a list"),
        ({"inputs": [tensor(datatype=None)]}, "datatype is None, want text"),
        ({"inputs": [tensor(data=None)]}, "the data of input 'a' is None, want a list"),
        ({"inputs": [tensor(data="eA==")]}, "the data of input 'a' is 'eA==', want a list"),
        ({"inputs": [tensor(parameters=[])]}, r"parameters is \[\], want an object"),
        ({"inputs": [], "parameters": 3}, "parameters is 3, want an object"),
        ({"inputs": [], "outputs": [3]}, "one of the outputs is 3, want an object"),
        ({"inputs": [], "outputs": [{}]}, "name is None, want text"),
        ({"inputs": [], "outputs": [{"name": "o", "x": 1}]}, "one of the outputs 'x' is unknown"),
        ({"inputs": [], "id": 3}, "id is 3, want text"),
        ({"inputs": [], "id": "\ud800"}, r"id is '\\ud800', want text"),
        ({"inputs": [], "model_version": 3}, "model_version is 3, want text"),
        ({"inputs": [], "model_name": "n"}, "model_name is 'n', the address says m"),
        ({"inputs": [], "model_name": 3}, "model_name is 3, want text"),
    ],
)
def test_a_malformed_rest_body_is_named(payload: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parsed(payload)


@pytest.mark.parametrize(
    ("length", "said"),
    [
        ("", "is '', want a number of bytes"),
        ("x", "is 'x', want a number of bytes"),
        ("-1", "is '-1', want a number of bytes"),
        ("+9", "want a number of bytes"),
        ("\u0663", "want a number of bytes"),
        ("9" * 19, "want a number of bytes"),
        ("9" * 18, f"is {'9' * 18}, the body has 15 bytes"),
        ("16", "is 16, the body has 15 bytes"),
    ],
)
def test_a_length_that_is_none_is_named(length: str, said: str) -> None:
    named = Headers(raw=[(LENGTH.encode(), length.encode())])
    body = b'{"inputs": []} '
    with pytest.raises(ValueError, match=said):
        from_rest(body, named, "m")
    for exact in ("14", "15", " 14 ", "014"):
        from_rest(body[: int(exact)], Headers({LENGTH: exact}), "m")
    twice = Headers(raw=[(LENGTH.encode(), b"14"), (LENGTH.encode(), b"14")])
    with pytest.raises(ValueError, match="is '14, 14', want a number of bytes"):
        from_rest(body, twice, "m")


def protobuf() -> pb.ModelInferRequest:
    call = pb.ModelInferRequest(model_name="m", model_version="7", id="i")
    call.parameters["p"].int64_param = 3
    call.inputs.add(name="a", datatype="BYTES", shape=[1, 1])
    call.inputs.add(name="b", datatype="INT32", shape=[2])
    call.inputs[0].parameters["q"].bool_param = True
    call.outputs.add(name="o").parameters["binary_data"].bool_param = False
    return call


def test_a_grpc_call_is_read_whole() -> None:
    call = protobuf()
    call.raw_input_contents[:] = [b"one", b"two"]
    request = from_grpc(call)
    assert (request.id, request.model_name, request.model_version) == ("i", "m", "7")
    assert request.from_grpc is True
    assert request.parameters == {"p": 3}
    first, second = request.inputs
    assert (first.name, first.shape, first.datatype) == ("a", [1, 1], "BYTES")
    assert (first._raw_data, first.data, first.parameters) == (b"one", None, {"q": True})
    assert (second.name, second.datatype, second._raw_data) == ("b", "INT32", b"two")
    [wanted] = request.request_outputs
    assert (wanted.name, wanted.parameters) == ("o", {"binary_data": False})


def test_typed_contents_are_read_too() -> None:
    call = protobuf()
    call.inputs[0].contents.bytes_contents.append(b"one")
    first, second = from_grpc(call).inputs
    assert (first.data, first._raw_data) == ([b"one"], None)
    assert (second.data, second._raw_data) == ([], None)


def test_contents_of_both_kinds_and_of_another_number_are_refused() -> None:
    call = protobuf()
    call.raw_input_contents[:] = [b"one"]
    with pytest.raises(ValueError, match="the call has 2 inputs and 1 raw contents"):
        from_grpc(call)
    call.raw_input_contents[:] = [b"one", b"two"]
    call.inputs[1].contents.int_contents.append(1)
    with pytest.raises(ValueError, match="input 'b' has raw and typed contents"):
        from_grpc(call)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (pb.InferParameter(bool_param=False), False),
        (pb.InferParameter(int64_param=-3), -3),
        (pb.InferParameter(string_param=""), ""),
        (pb.InferParameter.FromString(b"\x21" + struct.pack("<d", 2.5)), 2.5),
        (pb.InferParameter.FromString(b"\x28\x83\x01"), 131),
        (pb.InferParameter.FromString(b"\x30\x07\x28\x05"), 5),
    ],
)
def test_every_kind_of_parameter_is_a_plain_value(value: pb.InferParameter, plain: Any) -> None:
    got = plain_parameters({"p": value})["p"]
    assert got == plain
    assert type(got) is type(plain)


@pytest.mark.parametrize("data", [b"", b"\x30\x07"])
def test_a_parameter_without_a_value_is_named(data: bytes) -> None:
    with pytest.raises(ValueError, match="parameter 'p' has no value"):
        plain_parameters({"p": pb.InferParameter.FromString(data)})
