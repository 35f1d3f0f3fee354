# SPDX-License-Identifier: Apache-2.0
"""V2 over gRPC to a real server: what is taken, and what is refused with which status."""

from __future__ import annotations

import struct
from typing import Any

import grpc
import numpy as np
import pytest
from kserve import InferResponse
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from serving.launch import Pair
from tests.serving_builders import NOW_MS, Grpc, SmallRun
from tests.v2_calls import BOUND, INPUTS, grpc_call, scores_of


def parameter(**kinds: Any) -> pb.InferParameter:
    """A parameter; `double` and `uint64` as clients with newer stubs send them (fields 4 and 5)."""
    if "double" in kinds:
        return pb.InferParameter.FromString(b"\x21" + struct.pack("<d", kinds["double"]))
    if "uint64" in kinds:
        value, text = kinds["uint64"], bytearray(b"\x28")
        while value > 127:
            text.append(value & 127 | 128)
            value >>= 7
        return pb.InferParameter.FromString(bytes([*text, value]))
    return pb.InferParameter(**kinds)


def grpc_status(servers: Pair, request: pb.ModelInferRequest) -> tuple[str, str]:
    try:
        Grpc(servers.predictor.grpc).stub.ModelInfer(request, timeout=30)
    except grpc.RpcError as error:
        return error.code().name, str(error.details())
    return "OK", ""


@pytest.mark.parametrize(
    "value",
    [
        {"int64_param": NOW_MS},
        {"string_param": str(NOW_MS)},
        {"double": float(NOW_MS)},
        {"uint64": NOW_MS},
    ],
)
def test_a_number_is_taken_in_every_kind_of_grpc_parameter(
    servers: Pair, value: dict[str, Any]
) -> None:
    request = grpc_call(request_time_ms=parameter(**value))
    assert grpc_status(servers, request) == ("OK", "")


@pytest.mark.parametrize("value", [{"double": 0.0}, {"uint64": 0}, {"string_param": "0"}])
def test_a_grpc_deadline_counts_in_every_kind(servers: Pair, value: dict[str, Any]) -> None:
    request = grpc_call(deadline_ms=parameter(**value))
    assert grpc_status(servers, request)[0] == "DEADLINE_EXCEEDED"


def test_typed_contents_are_taken_as_raw_ones_are(servers: Pair) -> None:
    request = grpc_call()
    del request.raw_input_contents[:]
    for tensor, value in zip(request.inputs, INPUTS.values(), strict=True):
        tensor.contents.bytes_contents.append(value)
    reply = Grpc(servers.predictor.grpc).stub.ModelInfer(request, timeout=30)
    got = InferResponse.from_grpc(reply).outputs[0].as_numpy()
    np.testing.assert_allclose(got, scores_of(servers), atol=BOUND)


def grpc_refused() -> dict[str, tuple[pb.ModelInferRequest, str, str]]:
    bad = "INVALID_ARGUMENT"
    unknown, twice, both, fewer, version, spare, asked, wrong = (grpc_call() for _ in range(8))
    unknown.inputs[0].name = "colour"
    twice.inputs[0].name = "candidates"
    both.inputs[0].contents.bytes_contents.append(b"x")
    fewer.raw_input_contents.append(b"x")
    version.model_version = "7"
    spare.inputs[1].parameters["colour"].int64_param = 1
    asked.outputs.add(name="colour")
    wrong.inputs[0].parameters["binary_data_size"].int64_param = 1
    return {
        "an unknown input": (unknown, bad, "input 'colour' is unknown"),
        "an input twice": (twice, bad, "input 'candidates' is there twice"),
        "raw and typed contents": (both, bad, "raw and typed contents"),
        "more raw contents than inputs": (fewer, bad, "2 inputs and 3 raw contents"),
        "another version": (version, "NOT_FOUND", "version '7'"),
        "an input's unknown parameter": (spare, bad, "'colour' is unknown"),
        "an unknown output": (asked, bad, "output 'colour' is unknown"),
        "a size that is not the raw one's": (wrong, bad, "want one value"),
        "an unknown parameter": (grpc_call(colour=parameter(int64_param=1)), bad, "'colour'"),
        "a parameter without a value": (grpc_call(deadline_ms=parameter()), bad, "no value"),
        "a time that is true": (
            grpc_call(request_time_ms=parameter(bool_param=True)), bad, "is True",
        ),
        "a time with a fraction": (
            grpc_call(request_time_ms=parameter(double=NOW_MS + 0.5)), bad, "whole number",
        ),
        "a deadline beyond any calendar": (
            grpc_call(deadline_ms=parameter(uint64=2**64 - 1)), bad, "deadline_ms is 1844",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", grpc_refused())
def test_what_is_unknown_or_malformed_is_refused_over_grpc(servers: Pair, name: str) -> None:
    request, status, said = grpc_refused()[name]
    code, reason = grpc_status(servers, request)
    assert code == status, reason
    assert said in reason


def test_a_version_that_is_served_may_be_named(servers: Pair, small_run: SmallRun) -> None:
    request = grpc_call()
    request.model_version = f"{small_run.day}-test"
    assert grpc_status(servers, request)[0] == "OK"
