# SPDX-License-Identifier: Apache-2.0
"""The Spark session of this process: started when it is first wanted, stopped at the end.

The master is `FEEDSR_SPARK_MASTER`, by default every core of this machine. What else a cluster
wants said is said where Spark looks for it: `SPARK_CONF_DIR`, `PYSPARK_SUBMIT_ARGS`.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from components.layout.aside import aside

LOCAL = "local[*]"
START_SECONDS = 120
"""How long a cluster may take to give the first executor."""
LOOPBACK = "127.0.0.1"


def spark_session() -> Any:
    """The `pyspark.sql.SparkSession`.

    Raises:
        ValueError: pyspark or Java is not installed, or there is no executor to be had.
    """
    SparkSession = _pyspark()
    master = os.environ.get("FEEDSR_SPARK_MASTER") or LOCAL
    session = SparkSession.getActiveSession()
    if session is None:
        with ExitStack() as stack:
            folder = stack.enter_context(aside("spark"))
            session = _started(SparkSession.builder, master, folder)
            stack.callback(_stop, session)
            atexit.register(stack.pop_all().close)
    for name, value in _settings().items():
        session.conf.set(name, value)
    return session


def _pyspark() -> Any:
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise ValueError("engine spark wants pyspark: pip install 'feedsr[spark]'") from error
    if not os.environ.get("JAVA_HOME") and shutil.which("java") is None:
        raise ValueError("engine spark wants Java 17 or later: put java on PATH or set JAVA_HOME")
    return SparkSession


def _started(builder: Any, master: str, folder: Path) -> Any:
    # The executors of this machine run this interpreter; a cluster's have their own.
    local = master.startswith("local")
    if local:
        os.environ.setdefault("SPARK_LOCAL_IP", LOOPBACK)
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = builder.master(master).appName("feedsr")
    for name, value in {**_static(folder, local), **_settings()}.items():
        builder = builder.config(name, value)
    log = folder / "spark.log"
    try:
        with _stderr_into(log), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            session = builder.getOrCreate()
    except Exception as error:
        said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        why = (said or [str(error)])[-1][:200]
        raise ValueError(f"Spark at {master} did not start: {why}") from error
    if not local:
        _wait_for_executor(session, master)
    return session


def _static(folder: Path, local: bool) -> dict[str, str]:
    """What a session is started with."""
    ours = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.local.dir": str(folder),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
    }
    if local:
        ours |= {"spark.driver.bindAddress": LOOPBACK, "spark.driver.host": LOOPBACK}
    return ours


def _settings() -> dict[str, str]:
    """What queries run with: a task a bucket, few but large rows at a time, times in UTC."""
    return {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "16",
    }


def _wait_for_executor(session: Any, master: str) -> None:
    """ValueError where no executor does a first task in time."""
    timer = threading.Timer(START_SECONDS, session.sparkContext.cancelAllJobs)
    timer.daemon = True
    timer.start()
    try:
        session.range(1).count()
    except Exception as error:
        raise ValueError(
            f"Spark at {master} gave no executor within {START_SECONDS} s; "
            "look at its master, or take engine local"
        ) from error
    finally:
        timer.cancel()


@contextmanager
def _stderr_into(path: Path) -> Iterator[None]:
    """What starts in a block writes its errors into a file: the JVM is a loud process."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with path.open("wb") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _stop(session: Any) -> None:
    with suppress(Exception):
        session.stop()
