# SPDX-License-Identifier: Apache-2.0
"""What is handed to a pipeline service: Kubeflow's own client, and a service on loopback."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from components.loop import submit as module
from components.loop.submit import EXPERIMENT, Target, submit, yesterday
from feature_repo.spec import DAY_MS
from feature_repo.specs import KUAIRAND, SIMULATOR


class Service(ThreadingHTTPServer):
    """As much of a pipeline service as takes a run; `refusal` is the status that it refuses by."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.refusal = 0

    @property
    def target(self) -> Target:
        host = f"http://127.0.0.1:{self.server_port}"
        return Target(host=host, namespace="feeds", service_account="runner")


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        known = {"experiment_id": "e1", "display_name": EXPERIMENT}
        self._answer({"experiments": [known]})

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        body = self.rfile.read(int(self.headers["content-length"]))
        if not self.server.refusal:
            self.server.runs.append(json.loads(body))
        self._answer({"run_id": "run-1"}, self.server.refusal or 200)

    def _answer(self, value: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def test_a_run_of_a_day_is_handed_over_and_its_id_comes_back(service: Service) -> None:
    assert submit("2026-01-05", "demo", service.target) == "run-1"
    (run,) = service.runs
    assert run["runtime_config"]["parameters"] == {"day": "2026-01-05", "config": "demo"}
    assert run["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "feedsr-daily"
    assert (run["experiment_id"], run["display_name"]) == ("e1", "feedsr-2026-01-05")
    assert run["service_account"] == "runner"
    assert "namespace=feeds" in service.asked[0]
    tasks = run["pipeline_spec"]["pipeline_spec"]["root"]["dag"]["tasks"]
    assert not any(task.get("cachingOptions") for task in tasks.values())


def test_yesterday_is_the_feed_s_own(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "yesterday", lambda spec: f"the day before, by {spec.name}")
    submit("yesterday", "kuairand", service.target)
    assert service.runs[0]["runtime_config"]["parameters"]["day"] == "the day before, by kuairand"


@pytest.mark.parametrize("spec", [SIMULATOR, KUAIRAND], ids=lambda s: s.name)
def test_yesterday_ends_where_the_local_day_begins(spec, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    start = int(spec.day_start(spec.day_number("2026-01-05")))
    for milliseconds, day in ((0, "2026-01-04"), (DAY_MS - 1, "2026-01-04"), (-1, "2026-01-03")):
        now = (start + milliseconds) / 1000
        monkeypatch.setattr(module.time, "time", lambda now=now: now)
        assert yesterday(spec) == day


@pytest.mark.parametrize(
    ("day", "config", "told"),
    [("5 Jan", "demo", "'5 Jan' is not a day"), ("2026-01-05", "no", "no configuration 'no'")],
)
def test_a_mistake_is_told_before_the_service_is_asked(
    service: Service, day: str, config: str, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        submit(day, config, service.target)
    assert service.asked == []


def test_a_service_that_refuses_is_one_sentence(service: Service) -> None:
    service.refusal = 403
    with pytest.raises(ConnectionError) as caught:
        submit("2026-01-05", "demo", service.target)
    begin = f"the pipeline service at {service.target.host} did not take the run of 2026-01-05: "
    assert str(caught.value) == begin + "Forbidden"


def test_a_service_that_is_not_there_is_one_sentence(service: Service) -> None:
    service.server_close()
    with pytest.raises(ConnectionError, match=r"did not take the run of 2026-01-05: .*refused"):
        submit("2026-01-05", "demo", service.target)


def test_a_service_that_takes_a_call_and_never_answers_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kubeflow's own client, against a port that listens and says nothing."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"http://127.0.0.1:{server.getsockname()[1]}"
        target = Target(host=host, namespace="feeds", service_account="runner")
        with pytest.raises(ConnectionError, match="has not answered in 3 s; look whether"):
            submit("2026-01-05", "demo", target)
