# SPDX-License-Identifier: Apache-2.0
"""Hands a day's run to a Kubeflow Pipelines server; it knows the service and none of the steps."""

from __future__ import annotations

import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from components.config import load_config
from components.console import waiting
from feature_repo.spec import Spec

EXPERIMENT = "feedsr-daily"
ANSWER_SECONDS = 120.0
"""How long the service may take; its client has no limit of its own."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A pipeline service.

    Attributes:
        host: its address, http://HOST:PORT; a service account token is taken from the file that
            KF_PIPELINES_SA_TOKEN_PATH names.
        namespace: where the pods run.
        service_account: what the pods run as.
    """

    host: str
    namespace: str
    service_account: str


def submit(day: str, config: str, target: Target) -> str:
    """Submits the pipeline for one day and returns the run's id; steps are never cached.

    Args:
        day: YYYY-MM-DD, or "yesterday" in the feed's own time.
        config: a configuration's name, or a JSON file's path that the pods see as well.

    Raises:
        ValueError: not a day, or no such configuration.
        ConnectionError: the service cannot be reached, refuses, or does not answer in time.
    """
    spec = load_config(config).spec
    as_of = yesterday(spec) if day == "yesterday" else spec.day_name(spec.day_number(day))
    from components.loop.pipeline import compile_pipeline

    with tempfile.TemporaryDirectory(prefix="feedsr-submit-") as folder:
        package = Path(folder) / "pipeline.yaml"
        compile_pipeline(package)
        with waiting(f"handing {as_of} to {target.host}"):
            return _within(ANSWER_SECONDS, lambda: _run(package, as_of, config, target), target)


def yesterday(spec: Spec) -> str:
    """The last day of the feed that is over."""
    import numpy as np

    return spec.day_name(int(spec.day(np.array(time.time() * 1000, np.int64))) - 1)


def _within(seconds: float, call: Callable[[], str], target: Target) -> str:
    """What a call returns or raises; ConnectionError where it has not ended in time."""
    answer: Future[str] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    # A daemon, which a program that ends does not wait for.
    threading.Thread(target=run, name="submit", daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError as error:
        raise ConnectionError(
            f"the pipeline service at {target.host} has not answered in {seconds:.0f} s; look "
            "whether it has the run before you submit it again"
        ) from error


def _run(package: Path, day: str, config: str, target: Target) -> str:
    # The client announces the server versions it needs on every construction.
    warnings.filterwarnings("ignore", category=FutureWarning, module="kfp.client")
    import kfp
    from kfp_server_api.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        client = kfp.Client(host=target.host, namespace=target.namespace)
        made = client.create_run_from_pipeline_package(
            str(package),
            arguments={"day": day, "config": config},
            run_name=f"feedsr-{day}",
            experiment_name=EXPERIMENT,
            namespace=target.namespace,
            service_account=target.service_account,
            enable_caching=False,
        )
    except (HTTPError, ApiException, OSError) as error:
        why = getattr(error, "reason", None) or error
        raise ConnectionError(
            f"the pipeline service at {target.host} did not take the run of {day}: {why}"
        ) from error
    return str(made.run_id)
