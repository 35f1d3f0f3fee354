# SPDX-License-Identifier: Apache-2.0
"""What both servers offer over HTTP, and what becomes of a body on its way in."""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
from typing import Any

import pytest

from feature_repo.specs import SIMULATOR as SPEC
from serving.launch import NAME, Pair, Server
from serving.protocol.data_plane import DataPlane, ServedModel
from serving.protocol.rest import application
from tests.http_calls import call, cut_short
from tests.serving_builders import SmallRun, candidates, history_value, instance

LIMIT = 8 * 2**20
"""KServe's default for --grpc_max_receive_message_length, which bounds a REST body as well."""
BASE = {
    ("GET", "/"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name:model}"),
    ("POST", "/v1/models/{name:model}:predict"),
    ("GET", "/v2"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v2/models"),
    ("GET", "/v2/models/{name:model}"),
    ("GET", "/v2/models/{name:model}/ready"),
    ("POST", "/v2/models/{name:model}/infer"),
    ("GET", "/v2/models/{name:model}/versions/{version}"),
    ("GET", "/v2/models/{name:model}/versions/{version}/ready"),
    ("POST", "/v2/models/{name:model}/versions/{version}/infer"),
}
"""All that is offered over HTTP. A new route is a decision: it must change nothing and leak
nothing.
"""


@pytest.fixture(params=["predictor", "transformer"])
def server(request: pytest.FixtureRequest, servers: Pair) -> Server:
    return getattr(servers, request.param)


@pytest.fixture
def payload(server: Server, small_run: SmallRun) -> dict[str, Any]:
    """A V1 call of the server."""
    if server.name == "predictor":
        body = instance(SPEC, history_value(SPEC, 9, 1), candidates(SPEC, 3, 1))
    else:
        body = {
            "member_id": small_run.members[0],
            "candidates": small_run.posts[:3],
            "time_ms": small_run.end_ms,
        }
    return {"instances": [body]}


def test_the_routes_are_these() -> None:
    routes: Any = application(DataPlane(argparse.Namespace()), 1).routes  # type: ignore[arg-type]
    assert {(method, r.path) for r in routes for method in r.methods - {"HEAD"}} == BASE


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"/v2/repository/models/{NAME}/unload"),
        ("POST", f"/v2/repository/models/{NAME}/load"),
        ("POST", "/v2/repository/index"),
        ("GET", f"/v2/repository/models/{NAME}/unload"),
        ("POST", f"/v1/models/{NAME}:explain"),
        ("POST", f"/v2/models/{NAME}/explain"),
        ("POST", f"/v2/models/{NAME}/generate"),
        ("GET", f"/v2/models/{NAME}/config"),
        ("GET", "/docs"),
        ("GET", "/redoc"),
        ("GET", "/openapi.json"),
        ("GET", "/docs/oauth2-redirect"),
        ("POST", "/openai/v1/completions"),
        ("GET", "/debug"),
    ],
)
def test_what_changes_or_leaks_is_not_there(server: Server, method: str, path: str) -> None:
    answer = call(method, server.url + path, b"{}" if method == "POST" else None)
    assert answer.status == 404
    assert path[:20] in answer.error
    assert server.ready()


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "POST"])
@pytest.mark.parametrize("path", [f"/v2/models/{NAME}", "/v2", "/"])
def test_a_path_that_reads_takes_no_other_method(server: Server, method: str, path: str) -> None:
    answer = call(method, server.url + path, b"")
    assert answer.status == 405
    assert method in answer.error


@pytest.mark.parametrize(
    "path", ["/v1/models/x", "/v2/models/x", "/v2/models/x/ready", "/v2/models/x/versions/1"]
)
def test_an_unknown_model_is_404(server: Server, path: str) -> None:
    answer = call("GET", server.url + path)
    assert answer.status == 404
    assert "there is no model 'x' here" in answer.error


def predict(server: Server, body: Any, *headers: tuple[str, str]) -> tuple[int, str]:
    """The status of a V1 call and its refusal."""
    answer = call("POST", f"{server.url}/v1/models/{NAME}:predict", body, headers)
    return answer.status, "" if answer.status == 200 else answer.error


@pytest.mark.parametrize(
    "label",
    [
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "application/x-www-form-urlencoded",
        "application/octet-stream",
        "application/feed+json",
        None,
    ],
)
def test_json_is_taken_by_what_it_is(
    server: Server, payload: dict[str, Any], label: str | None
) -> None:
    named = [("Content-Type", label)] if label else []
    assert predict(server, json.dumps(payload).encode(), *named) == (200, "")


@pytest.mark.parametrize(
    ("name", "label", "said"),
    [
        ("content-type", "application/json; charset=utf-16", "utf-16"),
        ("content-type", "application/msgpack", "application/msgpack"),
        ("content-type", "application/cloudevents+json", "CloudEvent"),
        ("ce-specversion", "1.0", "CloudEvent"),
        ("content-encoding", "br", "br"),
    ],
)
def test_another_form_is_415_with_the_reason_and_the_remedy(
    server: Server, payload: dict[str, Any], name: str, label: str, said: str
) -> None:
    url, body = f"{server.url}/v1/models/{NAME}:predict", json.dumps(payload).encode()
    answer = call("POST", url, body, [(name, label)])
    assert answer.status == 415
    assert said in answer.error
    assert answer.headers["accept"] == "application/json"
    assert answer.headers["accept-encoding"] == "gzip, x-gzip, deflate"
    assert predict(server, body) == (200, "")


def test_bodies_come_compressed_in_chunks_and_behind_a_mark(
    server: Server, payload: dict[str, Any]
) -> None:
    body = json.dumps(payload).encode()
    packed = gzip.compress(body)
    assert predict(server, packed, ("content-encoding", "gzip")) == (200, "")
    assert predict(server, iter([body[:10], body[10:]])) == (200, "")
    halves = iter([packed[:10], packed[10:]])
    assert predict(server, halves, ("content-encoding", "gzip")) == (200, "")
    assert predict(server, b"\xef\xbb\xbf" + body) == (200, "")


def padded(payload: dict[str, Any], size: int) -> bytes:
    body = json.dumps(payload).encode()
    return body + b" " * (size - len(body))


def test_exactly_the_limit_is_taken_and_a_byte_more_is_not(
    server: Server, payload: dict[str, Any]
) -> None:
    assert predict(server, padded(payload, LIMIT)) == (200, "")
    many = (400, f"the body has more than {LIMIT} bytes; split the call")
    assert predict(server, padded(payload, LIMIT + 1)) == many
    chunks = [padded(payload, LIMIT), b" "]
    assert predict(server, iter(chunks)) == many
    packed = gzip.compress(padded(payload, LIMIT + 1))
    assert predict(server, packed, ("content-encoding", "gzip")) == many
    packed = gzip.compress(padded(payload, LIMIT))
    assert predict(server, packed, ("content-encoding", "gzip")) == (200, "")


def test_a_caller_who_hangs_up_harms_nobody(server: Server, payload: dict[str, Any]) -> None:
    body = json.dumps(payload).encode()
    before = server.log.stat().st_size
    for size in (0, 1, len(body)):
        cut_short(f"{server.url}/v1/models/{NAME}:predict", len(body) + 1, body[:size])
    assert predict(server, body) == (200, "")
    assert b"Traceback" not in server.log.read_bytes()[before:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": 1}, "the key of the body 'colour' is unknown; have instances, deadline_ms"),
        ({"inputs": []}, "the key of the body 'inputs' is unknown"),
        ({"instances": []}, "with at least one request"),
        ({"instances": None}, "with at least one request"),
        ({"instances": {}}, "with at least one request"),
        ({"deadline_ms": "50"}, "deadline_ms is '50', want a whole number"),
        ({"deadline_ms": 0.5}, "deadline_ms is 0.5, want a whole number"),
        ({"deadline_ms": -1}, "deadline_ms is -1, want 0 to"),
        ({"deadline_ms": True}, "deadline_ms is True, want a whole number"),
    ],
)
def test_what_a_v1_body_may_not_say_is_named(
    server: Server, payload: dict[str, Any], change: dict[str, Any], said: str
) -> None:
    status, error = predict(server, json.dumps({**payload, **change}).encode())
    assert status == 400
    assert said in error


def test_what_means_the_same_in_a_v1_body_is_taken(server: Server, payload: dict[str, Any]) -> None:
    for deadline in (None, 30_000, 30_000.0):
        body = json.dumps({**payload, "deadline_ms": deadline}).encode()
        assert predict(server, body) == (200, "")


@pytest.mark.parametrize("path", [f"/v1/models/{NAME}:predict", f"/v2/models/{NAME}/infer"])
def test_a_query_is_not_passed_over(server: Server, path: str) -> None:
    answer = call("POST", f"{server.url}{path}?deadline_ms=5", b"{}")
    assert answer.status == 400
    assert "'?deadline_ms=5'" in answer.error


def test_a_refusal_leaves_the_connection_usable(server: Server, payload: dict[str, Any]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=30)
    path = f"/v1/models/{NAME}:predict"
    for body, status in ((b"{", 400), (json.dumps(payload).encode(), 200), (b"", 400)):
        connection.request("POST", path, body, {"content-type": "application/json"})
        reply = connection.getresponse()
        reply.read()
        assert reply.status == status
    connection.close()


class Broken(ServedModel):
    """A model that makes a mistake of its own."""

    def __init__(self, error: Exception) -> None:
        super().__init__(NAME)
        self.error = error

    async def preprocess(self, payload: Any, headers: Any = None) -> Any:
        """Fails."""
        raise self.error


def test_a_mistake_of_our_own_is_500_and_says_nothing_of_the_payload() -> None:
    from kserve import ModelRepository
    from starlette.testclient import TestClient

    models = ModelRepository()
    models.update(Broken(ZeroDivisionError("secret")))
    app = application(DataPlane(models), 1000)
    client = TestClient(app, raise_server_exceptions=False)
    answer = client.post(f"/v1/models/{NAME}:predict", content=b'{"instances": ["secret"]}')
    assert answer.status_code == 500
    assert answer.json() == {"error": "the server made a mistake; its log says more"}
    assert client.get(f"/v1/models/{NAME}").status_code == 503
    assert "is not ready" in client.get(f"/v2/models/{NAME}/ready").json()["error"]
