# SPDX-License-Identifier: Apache-2.0
"""What a model reads out of a request and writes into its answer: every limit by hand."""

from __future__ import annotations

import base64
import struct
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from kserve import InferInput, InferRequest, InferResponse
from kserve.protocol.infer_type import RequestedOutput

from serving import infer
from serving.infer import (
    as_bytes,
    bytes_input,
    bytes_tensor,
    check_message,
    check_requests,
    deadline_of,
    instances_of,
    parameters_of,
    response,
)


def message(**changes: Any) -> InferRequest:
    parts: dict[str, Any] = {"infer_inputs": [bytes_tensor("a", b"x")], "parameters": {}}
    return InferRequest("m", **{**parts, **changes})


def check(request: InferRequest) -> None:
    check_message(request, inputs=("a", "b"), outputs=("o",), parameters=("p",))


def outputs(*parameters: dict[str, Any] | None) -> list[RequestedOutput]:
    return [RequestedOutput("o", named) for named in parameters]


def test_what_is_known_passes() -> None:
    check(message())
    check(message(parameters=None, request_outputs=None))
    check(message(parameters={"p": 1, "binary_data_output": True}))
    check(message(request_outputs=outputs({"binary_data": True})))
    check(message(request_outputs=outputs(None)))
    check(message(infer_inputs=[bytes_tensor("b", b""), InferInput("a", [1], "BYTES")]))


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (message(infer_inputs=[bytes_tensor("c", b"")]), "input 'c' is unknown; have a, b"),
        (message(infer_inputs=[bytes_tensor("b", b"")] * 2), "input 'b' is there twice"),
        (
            message(infer_inputs=[InferInput("a", [1], "BYTES", parameters={"q": 1})]),
            "the input's parameter 'q' is unknown; have binary_data_size",
        ),
        (message(request_outputs=[RequestedOutput("a")]), "output 'a' is unknown; have o"),
        (message(request_outputs=outputs(None, None)), "output 'o' is there twice"),
        (
            message(request_outputs=outputs({"binary": True})),
            "the output's parameter 'binary' is unknown; have binary_data",
        ),
        (message(request_outputs=outputs({"binary_data": 1})), "binary_data is 1, want true or"),
        (message(parameters={"q": 1}), "parameter 'q' is unknown; have p, binary_data_output"),
        (message(parameters={"binary_data_output": 0}), "binary_data_output is 0, want true or"),
    ],
)
def test_what_is_unknown_or_there_twice_is_named(request_: InferRequest, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check(request_)


def raw(packed: bytes | None, **changes: Any) -> InferRequest:
    tensor = InferInput("a", changes.pop("shape", [1]), changes.pop("datatype", "BYTES"), **changes)
    tensor._raw_data = packed
    return message(infer_inputs=[bytes_tensor("b", b"other"), tensor])


@pytest.mark.parametrize("shape", [[1], [1, 1], [], [1, 1, 1]])
@pytest.mark.parametrize("value", [b"", b"x", b"\x00\xff" * 300])
def test_one_value_is_read_in_any_shape_and_form(shape: list[int], value: bytes) -> None:
    packed = struct.pack("<I", len(value)) + value
    size = {"binary_data_size": len(packed)}
    assert bytes_input(raw(packed, shape=shape), "a") == value
    assert bytes_input(raw(packed, shape=shape, parameters=size), "a") == value
    for data in ([value], [[value]], [[[base64.b64encode(value).decode()]]]):
        assert bytes_input(raw(None, shape=shape, data=data), "a") == value


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (message(infer_inputs=[]), "input 'a' is missing"),
        (raw(b"", datatype="FP32"), "input 'a' is 'FP32', want 'BYTES'"),
        (raw(b"\0\0\0\0", shape=[2]), r"input 'a' has shape \[2\], want \[1\]"),
        (raw(b"\0\0\0\0", shape=[1, 0]), r"input 'a' has shape \[1, 0\], want \[1\]"),
        (raw(b"\0\0\0\0", shape=[True]), r"input 'a' has shape \[True\], want \[1\]"),
        (raw(b""), "input 'a' has 0 bytes, want one value"),
        (raw(b"\0\0\0"), "input 'a' has 3 bytes, want one value"),
        (raw(b"\1\0\0\0"), "input 'a' has 4 bytes, want one value"),
        (raw(b"\1\0\0\0xy"), "input 'a' has 6 bytes, want one value"),
        (raw(b"\0\0\0\1x"), "input 'a' has 5 bytes, want one value"),
        (raw(b"\0\0\0\0", parameters={"binary_data_size": 3}), "has 4 bytes, want one value"),
        (raw(b"\0\0\0\0", parameters={"binary_data_size": 5}), "has 4 bytes, want one value"),
        (raw(None, data=[]), "input 'a' has 0 values, want 1"),
        (raw(None, data=[["", ""]]), "input 'a' has 2 values, want 1"),
        (raw(None, data=[7]), "want base64 text, got 7"),
        (raw(None, data=None), "want base64 text, got None"),
    ],
)
def test_what_is_not_one_value_is_named(request_: InferRequest, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        bytes_input(request_, "a")


def test_bytes_are_bytes_and_text_is_base64() -> None:
    assert as_bytes(b"eA==") == b"eA=="
    assert as_bytes("eA==") == b"x"
    assert as_bytes("") == b""
    for text in ("eA", "e A==", "eA==\n", "-_==", "ü"):
        with pytest.raises(ValueError, match="is no base64: "):
            as_bytes(text)


def test_digits_of_a_number_may_be_text() -> None:
    given = {"a": "0017", "b": "17", "c": "9" * 20, "d": "-1", "e": "", "f": "9" * 21, "g": 1.0}
    values = parameters_of(message(parameters=given), numbers=("a", "c", "d", "e", "f", "g", "h"))
    assert values == {**given, "a": 17, "c": int("9" * 20)}
    assert parameters_of(message(parameters=None), numbers=("a",)) == {}
    assert given["a"] == "0017"


def test_a_deadline_is_counted_from_now_in_milliseconds() -> None:
    assert deadline_of({}) is None
    assert deadline_of({"deadline_ms": None}) is None
    start = time.monotonic()
    for value in (2500, 2500.0):
        got = deadline_of({"deadline_ms": value})
        assert got is not None
        assert start + 2.5 <= got <= time.monotonic() + 2.5
    got = deadline_of({"deadline_ms": 0})
    assert got is not None
    assert start <= got <= time.monotonic()
    assert deadline_of({"deadline_ms": infer.MAX_TIME_MS - 1})
    for wrong in (-1, infer.MAX_TIME_MS, 0.5, "5", True):
        with pytest.raises(ValueError, match="deadline_ms is"):
            deadline_of({"deadline_ms": wrong})


def test_every_time_has_a_date_in_every_time_zone() -> None:
    last = datetime(9999, 12, 31, tzinfo=UTC)
    assert last.timestamp() * 1000 == infer.MAX_TIME_MS
    assert infer.MAX_REQUESTS == 32


def test_a_v1_body_has_one_to_32_requests_and_may_have_a_deadline() -> None:
    assert instances_of({"instances": [7]}) == [7]
    many = list(range(32))
    assert instances_of({"instances": many, "deadline_ms": 5}) == many
    with pytest.raises(ValueError, match="the call has 33 requests, this server takes 32"):
        instances_of({"instances": [*many, 32]})
    for wrong in ([], None, {}, {"instances": []}, {"instances": {}}, {"instances": "x"}):
        with pytest.raises(ValueError, match="with at least one request"):
            instances_of(wrong)
    with pytest.raises(ValueError, match="the key of the body 'x' is unknown; have instances, d"):
        instances_of({"instances": [1], "x": 1})
    check_requests(32)
    with pytest.raises(ValueError, match="split the call"):
        check_requests(33)


def test_a_tensor_of_bytes_is_as_kserve_makes_it() -> None:
    tensor = bytes_tensor("a", b"\x00x")
    assert (tensor.name, tensor.shape, tensor.datatype, tensor.data) == ("a", [1], "BYTES", None)
    assert tensor._raw_data == b"\x02\x00\x00\x00\x00x"
    assert tensor.parameters == {"binary_data_size": 6}
    assert bytes_tensor("a", b"x\x00\x00")._raw_data == b"\x03\x00\x00\x00x\x00\x00"


SCORES = np.array([[0.25, 0.5], [0.125, 1.0], [0.0, 0.75]], np.float32)
TEXT = np.array([b"\xffab"], dtype=np.object_)


def answer(request: InferRequest, values: np.ndarray) -> InferResponse:
    return response(request, "o", values, "v7", {"tasks": "t"})


def test_an_answer_says_whose_it_is() -> None:
    got = answer(message(request_id="i", parameters=None), SCORES)
    assert (got.id, got.model_name, got.model_version) == ("i", "m", "v7")
    assert got.parameters == {"tasks": "t", "model_version": "v7"}
    [output] = got.outputs
    assert (output.name, output.shape, output.datatype) == ("o", [3, 2], "FP32")
    assert output.data == [0.25, 0.5, 0.125, 1.0, 0.0, 0.75]
    assert answer(message(request_id=None), SCORES).id == ""
    assert answer(message(), TEXT).outputs[0].data == ["/2Fi"]
    assert answer(message(), TEXT).outputs[0].datatype == "BYTES"


@pytest.mark.parametrize(
    ("every", "asked", "binary"),
    [
        (None, None, False),
        (True, None, True),
        (False, None, False),
        (None, [{"binary_data": True}], True),
        (None, [{"binary_data": False}], False),
        (True, [{"binary_data": False}], False),
        (False, [{"binary_data": True}], True),
        (True, [None], True),
        (True, [{}], True),
        (None, [None], False),
        (True, [], True),
    ],
)
@pytest.mark.parametrize("values", [SCORES, TEXT], ids=["scores", "text"])
def test_an_answer_has_the_form_that_was_asked_for(
    every: bool | None, asked: Any, binary: bool, values: np.ndarray
) -> None:
    parameters = {} if every is None else {"binary_data_output": every}
    request = message(
        parameters=parameters, request_outputs=None if asked is None else outputs(*asked)
    )
    reply, size = answer(request, values).to_rest()
    assert isinstance(reply, bytes) is binary
    if binary:
        packed = values.tobytes() if values is SCORES else b"\x03\x00\x00\x00\xffab"
        assert reply[size:] == packed


def test_grpc_answers_in_binary_form_whatever_was_asked_for() -> None:
    asked = message(from_grpc=True, request_outputs=outputs({"binary_data": False}))
    reply = answer(asked, SCORES).to_grpc()
    assert list(reply.raw_output_contents) == [SCORES.tobytes()]
    assert reply.model_version == "v7"
    assert answer(asked, SCORES).from_grpc is True
    assert answer(message(), SCORES).from_grpc is False
