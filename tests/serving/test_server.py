# SPDX-License-Identifier: Apache-2.0
"""What both servers say of themselves, what their flags may be, and what they log."""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
from typing import Any

import grpc
import pytest
from grpc import aio
from kserve.errors import InvalidInput
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from feature_repo.specs import SIMULATOR as SPEC
from serving.errors import Unavailable
from serving.launch import NAME, Pair, Server
from serving.server import _without_traceback, check_flags, check_ports, parser
from tests.http_calls import call
from tests.serving_builders import Grpc, SmallRun


@pytest.fixture(params=["predictor", "transformer"])
def server(request: pytest.FixtureRequest, servers: Pair) -> Server:
    return getattr(servers, request.param)


def test_models_are_not_loaded_or_unloaded_over_grpc(server: Server) -> None:
    stub = Grpc(server.grpc).stub
    requests = [
        (stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(model_name=NAME)),
        (stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name=NAME)),
    ]
    for method, request in requests:
        with pytest.raises(grpc.RpcError) as refusal:
            method(request, timeout=30)
        assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "loaded over this protocol" in refusal.value.details()
    assert stub.ModelReady(pb.ModelReadyRequest(name=NAME)).ready
    assert server.ready()


def test_health_and_metadata_are_there(server: Server) -> None:
    def get(path: str) -> Any:
        answer = call("GET", server.url + path)
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        return answer.json

    assert get("/") == {"status": "alive"}
    assert get("/v2/health/live") == {"live": True}
    assert get("/v2/health/ready") == {"ready": True}
    assert get("/v1/models") == get("/v2/models") == {"models": [NAME]}
    ready = {"name": NAME, "ready": True}
    assert get(f"/v1/models/{NAME}") == get(f"/v2/models/{NAME}/ready") == ready
    rest = get("/v2")
    stub = Grpc(server.grpc).stub
    served = stub.ServerMetadata(pb.ServerMetadataRequest())
    assert rest["extensions"] == list(served.extensions) == ["binary_tensor_data"]
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    assert b"feedsr_" in call("GET", f"{server.url}/metrics").body


def test_an_unknown_model_is_not_found_over_grpc(server: Server) -> None:
    stub = Grpc(server.grpc).stub
    requests = [
        (stub.ModelReady, pb.ModelReadyRequest(name="x")),
        (stub.ModelReady, pb.ModelReadyRequest(name=NAME, version="7")),
        (stub.ModelMetadata, pb.ModelMetadataRequest(name="x")),
        (stub.ModelMetadata, pb.ModelMetadataRequest(name=NAME, version="7")),
        (stub.ModelInfer, pb.ModelInferRequest(model_name="x")),
    ]
    for method, request in requests:
        with pytest.raises(grpc.RpcError) as refusal:
            method(request, timeout=30)
        assert refusal.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("workers", 2, "--workers is 2, want 1"),
        ("workers", 0, "--workers is 0, want 1"),
        ("max_candidates", 0, "--max_candidates is 0, want 1 or more"),
        ("max_queue", 0, "--max_queue is 0, want 1 or more"),
        ("max_queue", -1, "--max_queue is -1, want 1 or more"),
    ],
)
def test_a_flag_that_means_nothing_here_is_refused(name: str, value: int, said: str) -> None:
    usual = {"workers": 1, "max_candidates": 1, "max_queue": 1, "http_port": 0, "grpc_port": 0}
    check_flags(argparse.Namespace(host="127.0.0.1", **usual))
    with pytest.raises(ValueError, match=said):
        check_flags(argparse.Namespace(host="127.0.0.1", **{**usual, name: value}))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InvalidInput("bad"), "bad"),
        (Unavailable("busy"), "busy"),
        (
            aio.AioRpcError(grpc.StatusCode.INTERNAL, aio.Metadata(), aio.Metadata(), "peer"),
            "peer",
        ),
    ],
)
def test_news_are_logged_in_one_line(error: Exception, text: str) -> None:
    record = logging.LogRecord("kserve", 40, "", 1, "m %s", ("x",), (type(error), error, None))
    assert _without_traceback(record)
    assert record.getMessage() == text
    assert record.exc_info is None


def test_a_mistake_is_logged_with_its_traceback() -> None:
    mistake = KeyError("k")
    record = logging.LogRecord("kserve", 40, "", 1, "m", (), (KeyError, mistake, None))
    assert _without_traceback(record)
    assert record.exc_info is not None


def test_a_model_that_stopped_is_unavailable_over_both_protocols(small_run: SmallRun) -> None:
    from serving.predictor.predictor import Predictor
    from serving.transformer.transformer import Transformer, TransformerConfig

    config = TransformerConfig(
        spec_name=SPEC.name, feast_dir=small_run.layout.feast, predictor_host=""
    )
    for model in (Predictor(NAME, small_run.serving().model_dir), Transformer(NAME, config)):
        with pytest.raises(Unavailable, match="takes no request now"):
            asyncio.run(model.preprocess({"instances": [1]}))


def test_a_port_that_is_taken_is_told_before_anything_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen on 127.0.0.1:{port}: Address already"):
            check_ports("127.0.0.1", 0, port)
    check_ports("127.0.0.1", port)


def test_the_flags_are_kserves_and_ours() -> None:
    arguments = parser("what it is for").parse_args(["--http_port", "81"])
    assert (arguments.host, arguments.model_name) == ("127.0.0.1", "feed-sr")
    assert arguments.parent_pid == 0
    assert (arguments.http_port, arguments.workers) == (81, 1)
