# SPDX-License-Identifier: Apache-2.0
"""The Spark session: quiet, on loopback, gone at the end; what is missing is one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.log.engines import engine_named
from tests.spark_builders import needs_spark

USE = """
from components.log.engines.spark_session import spark_session
session = spark_session()
assert spark_session() is session
context = session.sparkContext
print(session.range(10).count(), context.master, session.conf.get("spark.sql.session.timeZone"))
print(context.getConf().get("spark.driver.host"), context.uiWebUrl)
print(context.getConf().get("spark.local.dir"))
"""


def test_without_pyspark_it_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyspark", "pyspark.sql"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"^engine spark wants pyspark: pip install 'feedsr\["):
        engine_named("spark", tmp_path)


def test_without_java_it_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyspark")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"^engine spark wants Java 17 or later: put java on PATH"):
        engine_named("spark", tmp_path)


@needs_spark
@pytest.mark.slow
def test_a_session_is_quiet_and_leaves_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "local[2]")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    counted, where, folder = done.stdout.splitlines()
    assert counted == "10 local[2] UTC"
    assert where == "127.0.0.1 None"
    assert folder.startswith(str(tmp_path))
    assert [*tmp_path.iterdir()] == []


@needs_spark
@pytest.mark.slow
def test_a_master_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    done = run(tmp_path, "nowhere")
    assert done.returncode == 1
    assert "ValueError: Spark at nowhere did not start: " in done.stderr.splitlines()[-1]
    assert [*tmp_path.iterdir()] == []


def run(folder: Path, master: str) -> subprocess.CompletedProcess[str]:
    """A session in a process of its own, whose temporary files lie in a folder."""
    environment = {**os.environ, "FEEDSR_SPARK_MASTER": master, "TMPDIR": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", USE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
