# SPDX-License-Identifier: Apache-2.0
"""The daily loop as a Kubeflow pipeline: one shim per step, and the order they run in.

A shim imports `components.loop.steps` inside its body, because the pipeline service ships only its
source; the package itself is in the image. The local runner and a cluster run this same object.
Nothing here computes: what a step does is in the file of its name, its backfill in
`components.loop.steps`. (No `from __future__ import annotations`: KFP reads the annotations.)
"""

import functools
import os
from pathlib import Path
from typing import Any

from kfp import compiler, dsl, kubernetes

from components.layout.writer import RUN

IMAGE = os.environ.get("FEEDSR_PIPELINE_IMAGE", "feedsr-pipeline:0.1.0")
VOLUME_CLAIM = os.environ.get("FEEDSR_VOLUME_CLAIM", "feedsr-root")
MOUNT = "/feedsr"
"""Where the run's root is mounted in every pod."""
SETTINGS, LOOP = "feedsr", "feedsr-loop"
"""The config maps of the manifests: addresses, and the configuration file of the loop."""
REDIS_SECRET = "feedsr-redis"
"""The secret with Redis' `password`, where it has one."""

component = functools.partial(dsl.component, base_image=IMAGE, install_kfp_package=False)


@component
def ingest(root: str, day: str, config: str, counts: dsl.Output[dsl.Metrics]):  # type: ignore[no-untyped-def]
    """Checks the log of every day that has arrived and plans the run."""
    from components.loop.steps import run_step

    for name, value in run_step("ingest", root, day, config).items():
        if isinstance(value, int):
            counts.log_metric(name, value)


@component
def features(root: str, day: str, config: str):  # type: ignore[no-untyped-def]
    """Counts popularity, activity and affinity as of the end of each new day."""
    from components.loop.steps import run_step

    run_step("features", root, day, config)


@component
def histories(root: str, day: str, config: str):  # type: ignore[no-untyped-def]
    """Packs each member's last impressions as of the end of each new day."""
    from components.loop.steps import run_step

    run_step("histories", root, day, config)


@component
def materialize(root: str, day: str, config: str):  # type: ignore[no-untyped-def]
    """Moves the newest features and histories to Feast's online store."""
    from components.loop.steps import run_step

    run_step("materialize", root, day, config)


@component
def sequences(root: str, day: str, config: str):  # type: ignore[no-untyped-def]
    """Joins histories and features in time into packed shards, for training and evaluation."""
    from components.loop.steps import run_step

    run_step("sequences", root, day, config)


@component
def train(root: str, day: str, config: str, ranker: str, model: dsl.Output[dsl.Model]):  # type: ignore[no-untyped-def]
    """Trains one ranker, cold or warm; a run that was killed goes on from its checkpoint."""
    import shutil

    from components.loop.steps import run_step

    trained = run_step("train", root, day, config, ranker=ranker)
    shutil.copyfile(f"{trained['folder']}/config.json", model.path)
    model.framework = "PyTorch"
    model.metadata.update(trained)


@component
def evaluate(root: str, day: str, config: str, quality: dsl.Output[dsl.Metrics]):  # type: ignore[no-untyped-def]
    """Scores the day with the new model, the one in production and the baseline."""
    from components.loop.steps import run_step

    for name, value in run_step("evaluate", root, day, config).items():
        quality.log_metric(name, value)


@component
def gate(root: str, day: str, config: str) -> str:
    """Says whether the model may be promoted: "passed" or "refused"."""
    from components.loop.steps import run_step

    return str(run_step("gate", root, day, config)["verdict"])


@component
def parity(root: str, day: str, config: str):  # type: ignore[no-untyped-def]
    """Replays serving requests offline; a feature that differs fails the run."""
    from components.loop.steps import run_step

    run_step("parity", root, day, config)


@component
def register(root: str, day: str, config: str) -> str:
    """Makes the model an immutable version and answers its name."""
    from components.loop.steps import run_step

    return str(run_step("register", root, day, config)["version"])


@component
def promote(root: str, day: str, config: str, version: str):  # type: ignore[no-untyped-def]
    """Points production at the version."""
    from components.loop.steps import run_step

    run_step("promote", root, day, config, version=version)


@component
def report(  # type: ignore[no-untyped-def]
    root: str,
    day: str,
    config: str,
    page: dsl.Output[dsl.HTML],
    status: dsl.PipelineTaskFinalStatus,
):
    """Writes the day's report, whatever the verdict and also when a later step failed."""
    import shutil

    from components.loop.steps import run_step

    written = str(run_step("report", root, day, config)["report"])
    if written:
        shutil.copyfile(written, page.path)


def _place(task: dsl.PipelineTask, cpu: str, memory: str) -> dsl.PipelineTask:
    """Mounts the root and the configuration, drops root rights, and switches KFP's cache off.

    The cache's key covers a step's inputs and not the package's code, and every step already keeps
    its own work on disk.
    """
    task.set_caching_options(False)
    task.set_cpu_request(cpu).set_memory_request(memory).set_memory_limit(memory)
    kubernetes.mount_pvc(task, pvc_name=VOLUME_CLAIM, mount_path=MOUNT)
    kubernetes.use_config_map_as_volume(task, LOOP, mount_path="/etc/feedsr")
    kubernetes.use_config_map_as_env(task, SETTINGS, {"FEEDSR_REDIS": "FEEDSR_REDIS"})
    password = {"password": "FEEDSR_REDIS_PASSWORD"}
    kubernetes.use_secret_as_env(task, REDIS_SECRET, password, optional=True)
    # Pods of one run write into the root together; the run's id is a label of each.
    kubernetes.use_field_path_as_env(task, RUN, "metadata.labels['pipeline/runid']")
    kubernetes.set_security_context(task, run_as_user=1000, run_as_group=1000, run_as_non_root=True)
    return task


def _place_on_gpu(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """One GPU, on a node that has one, with the shared memory that a loader wants."""
    task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(1)
    kubernetes.add_node_selector(task, "nvidia.com/gpu.present", "true")
    kubernetes.add_toleration(task, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
    kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit="8Gi")
    return _place(task, "4", "32Gi")


@functools.cache
def daily_pipeline() -> Any:
    """The pipeline, built once: for each task KFP looks through every module that is loaded."""
    about = "One day of Feed-SR's loop, raw log to promotion."
    return dsl.pipeline(name="feedsr-daily", description=about)(_daily)


def _daily(day: str, root: str = MOUNT, config: str = "demo"):  # type: ignore[no-untyped-def]
    """The loop of one day.

    Args:
        day: the as-of day, YYYY-MM-DD: the log through it has arrived.
        root: the run's root, a mounted path.
        config: a shipped configuration's name, or the path of a JSON file that the pods see.
    """
    common = {"root": root, "day": day, "config": config}
    with dsl.ExitHandler(_place(report(**common), "1", "4Gi"), name="loop"):
        checked = _place(ingest(**common), "2", "8Gi")
        counted = _place(features(**common).after(checked), "4", "16Gi")
        packed = _place(histories(**common).after(counted), "4", "16Gi")
        online = _place(materialize(**common).after(packed), "2", "8Gi")
        joined = _place(sequences(**common).after(online), "4", "16Gi")
        candidate = _place_on_gpu(train(ranker="feed_sr", **common).after(joined))
        candidate.set_display_name("train-feed-sr")
        baseline = _place_on_gpu(train(ranker="dcnv2", **common).after(joined))
        baseline.set_display_name("train-dcnv2")
        scored = _place_on_gpu(evaluate(**common).after(candidate, baseline))
        judged = _place(gate(**common).after(scored), "1", "2Gi")
        replayed = _place(parity(**common).after(judged), "2", "8Gi")
        with dsl.If(judged.output == "passed", name="passed"):
            version = _place(register(**common).after(replayed), "1", "2Gi")
            _place(promote(version=version.output, **common), "1", "2Gi")


def compile_pipeline(path: Path) -> None:
    """Writes the pipeline as YAML that a Kubeflow Pipelines server takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(daily_pipeline(), str(path))
