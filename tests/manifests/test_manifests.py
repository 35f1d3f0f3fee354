# SPDX-License-Identifier: Apache-2.0
"""The manifests render, hold against the kinds' schemas, and say what serving and the loop need."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.config import load_config
from components.loop.pipeline import LOOP, REDIS_SECRET, SETTINGS, VOLUME_CLAIM

MANIFESTS = Path(__file__).parents[2] / "manifests"
PLACES = ("base", "overlays/production")
CHECK = os.environ.get("FEEDSR_CHECK_MANIFESTS", "")

needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not installed"
)
needs_check = pytest.mark.skipif(
    not Path(CHECK).is_file(), reason="FEEDSR_CHECK_MANIFESTS does not name the strict checker"
)


def render(place: Path) -> str:
    return subprocess.run(
        ["kubectl", "kustomize", str(place)], capture_output=True, text=True, check=True
    ).stdout


def check(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, CHECK], input=text, capture_output=True, text=True)


@pytest.fixture(scope="module", params=PLACES)
def rendered(request: pytest.FixtureRequest) -> str:
    return render(MANIFESTS / request.param)


@pytest.fixture(scope="module")
def documents(rendered: str) -> dict[tuple[str, str], dict[str, Any]]:
    found = [d for d in yaml.safe_load_all(rendered) if d]
    return {(d["kind"], d["metadata"]["name"]): d for d in found}


@needs_kubectl
@needs_check
def test_every_document_holds_strictly(rendered: str) -> None:
    result = check(rendered)
    assert result.returncode == 0, result.stdout + result.stderr


@needs_kubectl
@needs_check
@pytest.mark.parametrize(
    ("right", "typo"),
    [
        ("storageUri:", "storageURI:"),
        ("feastProject:", "feastproject:"),
        ("concurrencyPolicy:", "concurencyPolicy:"),
        ("containerPort:", "containerport:"),
    ],
)
def test_a_typo_does_not_hold(right: str, typo: str) -> None:
    text = render(MANIFESTS / "base")
    assert right in text
    assert check(text.replace(right, typo, 1)).returncode == 1


@needs_kubectl
def test_readiness_asks_for_the_model(documents: dict[tuple[str, str], dict[str, Any]]) -> None:
    service = documents["InferenceService", "feed-sr"]
    runtime = documents["ServingRuntime", service["spec"]["predictor"]["model"]["runtime"]]
    for container in (
        runtime["spec"]["containers"][0],
        service["spec"]["transformer"]["containers"][0],
    ):
        assert container["readinessProbe"]["httpGet"]["path"] == "/v2/models/feed-sr/ready"


@needs_kubectl
def test_the_predictor_alone_has_a_gpu(documents: dict[tuple[str, str], dict[str, Any]]) -> None:
    service = documents["InferenceService", "feed-sr"]["spec"]
    predictor = documents["ServingRuntime", "feedsr"]["spec"]["containers"][0]
    transformer = service["transformer"]["containers"][0]
    assert predictor["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert predictor["ports"][0]["name"] == "h2c"
    assert "nvidia.com/gpu" not in str(transformer["resources"])


@needs_kubectl
def test_the_loop_finds_what_it_names(documents: dict[tuple[str, str], dict[str, Any]]) -> None:
    for kind, name in (
        ("PersistentVolumeClaim", VOLUME_CLAIM),
        ("ConfigMap", SETTINGS),
        ("ConfigMap", LOOP),
        ("ServiceAccount", "feedsr-daily"),
    ):
        assert (kind, name) in documents
    settings = documents["ConfigMap", SETTINGS]["data"]
    loop = load_config(str(MANIFESTS / "base" / "loop.json"))
    assert loop.spec_name == settings["FEEDSR_SPEC"]
    assert loop.online_store == "redis"
    transformer = documents["InferenceService", "feed-sr"]["spec"]["transformer"]["containers"][0]
    (secret,) = [e["valueFrom"]["secretKeyRef"] for e in transformer["env"] if "valueFrom" in e]
    assert (secret["name"], secret["optional"]) == (REDIS_SECRET, True)


@needs_kubectl
def test_no_pod_runs_as_root(documents: dict[tuple[str, str], dict[str, Any]]) -> None:
    service = documents["InferenceService", "feed-sr"]["spec"]
    pods = [
        documents["StatefulSet", "redis"]["spec"]["template"]["spec"],
        documents["CronJob", "feedsr-daily"]["spec"]["jobTemplate"]["spec"]["template"]["spec"],
        documents["ServingRuntime", "feedsr"]["spec"],
        service["transformer"],
    ]
    for pod in pods:
        for container in pod["containers"]:
            both = {**pod.get("securityContext", {}), **container["securityContext"]}
            assert both["runAsNonRoot"] is True
            assert both["readOnlyRootFilesystem"] is True
            assert both["allowPrivilegeEscalation"] is False


@needs_kubectl
def test_production_survives_a_disruption_and_closes_its_network() -> None:
    found = [d for d in yaml.safe_load_all(render(MANIFESTS / "overlays/production")) if d]
    kinds = [d["kind"] for d in found]
    service = next(d for d in found if d["kind"] == "InferenceService")["spec"]
    assert service["predictor"]["minReplicas"] >= 2
    assert service["transformer"]["minReplicas"] >= 2
    assert kinds.count("PodDisruptionBudget") == 2
    closed = next(
        d for d in found if d["kind"] == "NetworkPolicy" and d["metadata"]["name"] == "closed"
    )
    assert closed["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}


@needs_kubectl
@pytest.mark.parametrize("server", ["predictor", "transformer"])
def test_every_flag_exists(documents: dict[tuple[str, str], dict[str, Any]], server: str) -> None:
    container = {
        "predictor": documents["ServingRuntime", "feedsr"]["spec"],
        "transformer": documents["InferenceService", "feed-sr"]["spec"]["transformer"],
    }[server]["containers"][0]
    told = subprocess.run(
        [sys.executable, "-m", f"serving.{server}", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    flags = [argument.split("=")[0] for argument in container["args"]]
    assert set(flags) <= set(re.findall(r"--\w+", told))
    ports = {p["containerPort"] for p in container["ports"]}
    asked = {int(a.split("=")[1]) for a in container["args"] if "_port=" in a}
    assert ports <= asked


def test_the_submit_job_is_a_command_that_exists() -> None:
    (job,) = [
        d
        for d in yaml.safe_load_all((MANIFESTS / "base" / "daily.yaml").read_text())
        if d["kind"] == "CronJob"
    ]
    container = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    name, command, *flags = container["command"]
    assert name == "feedsr"
    told = subprocess.run(
        [sys.executable, "-c", "from components.cli.main import main; main()", command, "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert {f for f in flags if f.startswith("--")} <= set(re.findall(r"--[\w-]+", told))
    settings = yaml.safe_load((MANIFESTS / "base" / "settings.yaml").read_text())["data"]
    for variable in ("FEEDSR_CONFIG", "FEEDSR_KFP_HOST", "FEEDSR_KFP_NAMESPACE"):
        assert variable in settings
        assert variable in told


def test_the_predictor_image_has_neither_feast_nor_pipelines() -> None:
    text = (MANIFESTS / "containers" / "Containerfile.predictor").read_text()
    installed = re.search(r"pip install.*?\n(?=COPY)", text, re.S)
    assert installed
    assert "feast" not in installed[0]
    assert "kfp" not in installed[0]
    copied = re.findall(r"^COPY (\w+) \w+$", text, re.M)
    assert set(copied) == {"feature_repo", "kernels", "model", "serving"}


@pytest.mark.parametrize("image", ["pipeline", "predictor", "transformer"])
def test_what_an_image_copies_is_there(image: str) -> None:
    text = (MANIFESTS / "containers" / f"Containerfile.{image}").read_text()
    for line in re.findall(r"^COPY (.+) \S+$", text, re.M):
        for name in line.split():
            assert (MANIFESTS.parent / name).exists(), name
    assert re.search(r"^USER 1000$", text, re.M)
