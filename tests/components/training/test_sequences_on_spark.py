# SPDX-License-Identifier: Apache-2.0
"""Sequences on Spark: the shards of a cold and of a warm start are those of the local engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.config import DailyConfig
from components.features.store import apply_store, open_store
from components.layout.paths import Layout
from components.training import sequences as module
from components.training.sequences import sequences
from feature_repo.specs import KUAIRAND
from tests.log_builders import build_run, random_log, small_config
from tests.spark_builders import needs_spark, stop_spark

LOCAL = small_config(KUAIRAND, buckets=3)
SPARK = small_config(KUAIRAND, buckets=3, engine="spark")

pytestmark = [needs_spark, pytest.mark.slow]


def shards(layout: Layout, days: list[str], config: DailyConfig, warm: bool) -> dict[str, bytes]:
    after = days[-4] if warm else None
    counts = sequences(layout, days[-1], config, "train", after, days[-2])
    assert counts.sequences > 1
    folder = layout.sequences("train", days[-1])
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_shards_are_those_of_the_local_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some members at a time, each on whichever executor is free."""
    monkeypatch.setenv("FEEDSR_SPARK_MASTER", "local[2]")
    monkeypatch.setattr(module, "CHUNK_ROWS", 60)
    layout = Layout.at(tmp_path)
    days = build_run(layout, random_log(KUAIRAND, 4, rows=260, members=9, days=5), LOCAL)
    apply_store(layout, KUAIRAND, open_store(layout, LOCAL))
    try:
        for warm in (False, True):
            local = shards(layout, days, LOCAL, warm)
            assert shards(layout, days, SPARK, warm) == local
    finally:
        stop_spark()
