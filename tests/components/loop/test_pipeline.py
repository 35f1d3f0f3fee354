# SPDX-License-Identifier: Apache-2.0
"""The compiled pipeline is one that a server takes, in the order that people are told."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from components.loop import pipeline, steps


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    path = tmp_path_factory.mktemp("pipeline") / "sub" / "pipeline.yaml"
    pipeline.compile_pipeline(path)
    return list(yaml.safe_load_all(path.read_text()))


def dag(compiled: list[dict[str, Any]], component: str) -> dict[str, Any]:
    return compiled[0]["components"][component]["dag"]["tasks"]


def executors(compiled: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return compiled[0]["deploymentSpec"]["executors"]


def test_it_is_a_pipeline_spec(compiled: list[dict[str, Any]]) -> None:
    spec = json_format.ParseDict(compiled[0], PipelineSpec())
    assert spec.pipeline_info.name == "feedsr-daily"
    assert set(spec.root.input_definitions.parameters) == {"day", "root", "config"}


def test_each_step_waits_for_the_one_before(compiled: list[dict[str, Any]]) -> None:
    loop = dag(compiled, "comp-exit-handler-1")
    waits = {name: set(task.get("dependentTasks", ())) for name, task in loop.items()}
    assert waits["ingest"] == set()
    assert waits["features"] == {"ingest"}
    assert waits["histories"] == {"features"}
    assert waits["materialize"] == {"histories"}
    assert waits["sequences"] == {"materialize"}
    assert waits["train"] == waits["train-2"] == {"sequences"}
    assert waits["evaluate"] == {"train", "train-2"}
    assert waits["gate"] == {"evaluate"}
    assert waits["parity"] == {"gate"}
    assert waits["condition-2"] == {"gate", "parity"}


def test_only_a_model_that_passed_is_registered(compiled: list[dict[str, Any]]) -> None:
    loop = dag(compiled, "comp-exit-handler-1")
    condition = loop["condition-2"]["triggerPolicy"]["condition"]
    assert "gate-Output" in condition
    assert "'passed'" in condition
    branch = dag(compiled, "comp-condition-2")
    assert branch["promote"]["dependentTasks"] == ["register"]


def test_the_report_is_written_whatever_happens(compiled: list[dict[str, Any]]) -> None:
    report = compiled[0]["root"]["dag"]["tasks"]["report"]
    assert report["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"


def test_nothing_is_cached_and_nothing_installed(compiled: list[dict[str, Any]]) -> None:
    for name in ("comp-exit-handler-1", "comp-condition-2"):
        for task in dag(compiled, name).values():
            assert not task.get("cachingOptions", {}).get("enableCache")
    for executor in executors(compiled).values():
        assert "pip install" not in str(executor["container"]["command"])
        assert executor["container"]["image"] == pipeline.IMAGE


def test_training_and_evaluation_alone_ask_for_a_gpu(compiled: list[dict[str, Any]]) -> None:
    with_gpu = {
        name
        for name, executor in executors(compiled).items()
        if "accelerator" in executor["container"].get("resources", {})
    }
    assert with_gpu == {"exec-train", "exec-train-2", "exec-evaluate"}


def test_every_pod_mounts_the_root_and_is_not_root(compiled: list[dict[str, Any]]) -> None:
    platform = compiled[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(platform) == set(executors(compiled))
    for place in platform.values():
        assert [m["mountPath"] for m in place["pvcMount"]] == [pipeline.MOUNT]
        assert place["securityContext"]["runAsNonRoot"] is True
        assert place["fieldPathAsEnv"] == [
            {"name": "FEEDSR_RUN", "fieldPath": "metadata.labels['pipeline/runid']"}
        ], "pods of one run write together"
    selector = platform["exec-train"]["nodeSelector"]["labels"]
    assert selector == {"nvidia.com/gpu.present": "true"}


def test_every_pod_has_the_password_of_redis_where_there_is_one(
    compiled: list[dict[str, Any]],
) -> None:
    for place in compiled[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        (secret,) = place["secretAsEnv"]
        assert (secret["secretName"], secret["optional"]) == (pipeline.REDIS_SECRET, True)
        (named,) = secret["keyToEnv"]
        assert named == {"secretKey": "password", "envVar": "FEEDSR_REDIS_PASSWORD"}


def test_a_shim_is_at_most_thirty_lines_and_every_step_has_one() -> None:
    for name in steps.STEPS:
        shim = getattr(pipeline, name).python_func
        assert len(inspect.getsource(shim).splitlines()) <= 30
    assert {name.partition("-")[0] for name in steps.ORDER} == set(steps.STEPS)


def test_compiling_twice_gives_the_same_pipeline(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    pipeline.compile_pipeline(first)
    pipeline.compile_pipeline(second)
    assert first.read_text() == second.read_text()
