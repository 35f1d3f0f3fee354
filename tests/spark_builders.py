# SPDX-License-Identifier: Apache-2.0
"""Spark on this machine for tests, where there is one: two executors' threads, few partitions."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

MISSING = (
    "there is no java on PATH"
    if shutil.which("java") is None
    else "the extra spark is not installed"
)
NO_SPARK = shutil.which("java") is None or importlib.util.find_spec("pyspark") is None
needs_spark = pytest.mark.skipif(NO_SPARK, reason=MISSING)
QUICK = {
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.adaptive.enabled": "false",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
}
"""A few rows are read sooner without plans and compiled code."""


def stop_spark() -> None:
    """Stops the session of this process, if there is one."""
    from pyspark.sql import SparkSession

    session = SparkSession.getActiveSession()
    if session is not None:
        session.stop()
