# SPDX-License-Identifier: Apache-2.0
"""What is handed to a pipeline service, by a client that stands in for Kubeflow's."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kfp
import pytest
import yaml
from kfp_server_api.exceptions import ApiException

from components.loop import submit as module
from components.loop.submit import EXPERIMENT, Target, submit, yesterday
from feature_repo.spec import DAY_MS
from feature_repo.specs import KUAIRAND, SIMULATOR

TARGET = Target(host="http://127.0.0.1:9", namespace="feeds", service_account="runner")


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the service was handed."""
    runs: list[dict[str, Any]] = []

    class Client:
        def __init__(self, **address: str) -> None:
            self.address = address

        def create_run_from_pipeline_package(self, package: str, **options: Any) -> Any:
            pipeline = next(yaml.safe_load_all(Path(package).read_text()))
            runs.append({"address": self.address, "pipeline": pipeline, **options})
            return SimpleNamespace(run_id="run-1")

    monkeypatch.setattr(kfp, "Client", Client)
    return runs


def test_a_run_of_a_day_is_handed_over_and_its_id_comes_back(handed: list[dict[str, Any]]) -> None:
    assert submit("2026-01-05", "demo", TARGET) == "run-1"
    (run,) = handed
    assert run["address"] == {"host": TARGET.host, "namespace": "feeds"}
    assert run["arguments"] == {"day": "2026-01-05", "config": "demo"}
    assert run["pipeline"]["pipelineInfo"]["name"] == "feedsr-daily"
    assert (run["experiment_name"], run["run_name"]) == (EXPERIMENT, "feedsr-2026-01-05")
    assert (run["namespace"], run["service_account"]) == ("feeds", "runner")
    assert run["enable_caching"] is False


def test_yesterday_is_the_feed_s_own(
    handed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "yesterday", lambda spec: f"the day before, by {spec.name}")
    submit("yesterday", "kuairand", TARGET)
    assert handed[0]["arguments"]["day"] == "the day before, by kuairand"


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
    handed: list[dict[str, Any]], day: str, config: str, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        submit(day, config, TARGET)
    assert handed == []


@pytest.mark.parametrize(
    "error", [ApiException(status=403, reason="Forbidden"), OSError("no route to host")]
)
def test_a_service_that_refuses_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(**_: str) -> None:
        raise error

    monkeypatch.setattr(kfp, "Client", refuse)
    with pytest.raises(ConnectionError) as caught:
        submit("2026-01-05", "demo", TARGET)
    why = getattr(error, "reason", None) or str(error)
    begin = f"the pipeline service at {TARGET.host} did not take the run of 2026-01-05: "
    assert str(caught.value) == begin + why


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
