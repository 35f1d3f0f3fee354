# SPDX-License-Identifier: Apache-2.0
"""Asking a predictor over gRPC: what is sent, what comes back, and what becomes of a failure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np
import pytest
from kserve import InferOutput, InferRequest, InferResponse
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

from feature_repo.specs import SIMULATOR as SPEC
from serving.errors import TooLate, Unavailable
from serving.infer import bytes_input
from serving.launch import free_ports
from serving.transformer.predictor_client import PredictorClient, Scores

PROBABILITIES = np.array([[0.25, 0.5], [0.125, 0.75]], np.float32)
Answer = Callable[[pb.ModelInferRequest, Any], Awaitable[pb.ModelInferResponse]]


class Service(GRPCInferenceServiceServicer):
    """A predictor that gives the one answer that a test sets."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    async def ModelInfer(self, request: Any, context: Any) -> pb.ModelInferResponse:
        return await self.answer(request, context)


def ask(answer: Answer, deadline_in: float | None = None, timeout: float = 5.0) -> Scores:
    """The client's answer from a server in the same event loop."""

    async def main() -> Scores:
        server = grpc.aio.server()
        add_GRPCInferenceServiceServicer_to_server(Service(answer), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        client = PredictorClient(f"127.0.0.1:{port}", "m", SPEC, timeout)
        deadline = None if deadline_in is None else time.monotonic() + deadline_in
        try:
            return await client.rank(b"history", b"candidates", 1_700_000_000_000, deadline)
        finally:
            await client._client.close()
            await server.stop(None)

    return asyncio.run(main())


def scored(parameters: dict[str, Any]) -> pb.ModelInferResponse:
    output = InferOutput("probabilities", [2, 2], "FP32")
    output.set_data_from_numpy(PROBABILITIES)
    return InferResponse("", "m", [output], parameters=parameters, from_grpc=True).to_grpc()


async def answered(request: Any, context: Any) -> pb.ModelInferResponse:
    return scored({"model_version": "7", "dtype": "bfloat16", "tasks": "a,b"})


def test_scores_come_with_their_version_and_dtype() -> None:
    scores = ask(answered)
    np.testing.assert_array_equal(scores.probabilities_NK, PROBABILITIES)
    assert (scores.model_version, scores.dtype) == ("7", "bfloat16")


def test_an_answer_that_names_neither_leaves_them_empty() -> None:
    async def silent(request: Any, context: Any) -> pb.ModelInferResponse:
        return scored({})

    scores = ask(silent)
    assert (scores.model_version, scores.dtype) == ("", "")


@pytest.mark.parametrize("deadline_in", [None, 3.0, 60.0])
def test_a_call_carries_both_values_the_spec_and_what_time_is_left(
    deadline_in: float | None,
) -> None:
    calls: list[InferRequest] = []

    async def noted(request: Any, context: Any) -> pb.ModelInferResponse:
        calls.append(InferRequest.from_grpc(request))
        return scored({})

    ask(noted, deadline_in)
    [call] = calls
    assert [bytes_input(call, n) for n in ("history", "candidates")] == [b"history", b"candidates"]
    values = {name: value.int64_param for name, value in call.parameters.items()}
    assert values["request_time_ms"] == 1_700_000_000_000
    assert call.parameters["spec_hash"].string_param == SPEC.hash
    assert call.model_name == "m"
    left = None if deadline_in is None else min(deadline_in, 5.0) * 1000
    assert ("deadline_ms" in values) == (left is not None)
    assert left is None or left - 1500 < values["deadline_ms"] <= left


@pytest.mark.parametrize(
    ("code", "kind", "sentence"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, TooLate, "did not answer before the deadline"),
        (grpc.StatusCode.UNAVAILABLE, Unavailable, "is not available: it said so"),
        (grpc.StatusCode.INVALID_ARGUMENT, Unavailable, "answered INVALID_ARGUMENT: it said so"),
        (grpc.StatusCode.INTERNAL, Unavailable, "answered INTERNAL: it said so"),
    ],
)
def test_whatever_goes_wrong_there_is_unavailable_or_too_late(
    code: grpc.StatusCode, kind: type[Exception], sentence: str
) -> None:
    async def refused(request: Any, context: Any) -> pb.ModelInferResponse:
        await context.abort(code, "it said so")
        raise AssertionError

    with pytest.raises(kind, match=sentence):
        ask(refused)


def test_a_predictor_that_hangs_is_left_in_time() -> None:
    async def hung(request: Any, context: Any) -> pb.ModelInferResponse:
        await asyncio.sleep(30)
        return scored({})

    start = time.monotonic()
    with pytest.raises(TooLate, match="did not answer before the deadline"):
        ask(hung, timeout=0.2)
    assert time.monotonic() - start < 10


def test_what_is_too_late_already_is_not_sent() -> None:
    async def unwanted(request: Any, context: Any) -> pb.ModelInferResponse:
        raise AssertionError

    with pytest.raises(TooLate, match="the deadline passed before the model was asked"):
        ask(unwanted, deadline_in=-0.1)


def test_nobody_at_the_address_is_unavailable() -> None:
    async def main() -> None:
        client = PredictorClient(f"127.0.0.1:{free_ports(1)[0]}", "m", SPEC, 5.0)
        with pytest.raises(Unavailable, match="is not available"):
            await client.rank(b"", b"", 1_700_000_000_000, None)
        await client._client.close()

    asyncio.run(main())
