# SPDX-License-Identifier: Apache-2.0
"""Feast's Spark offline store: the rows of a point-in-time join are those that duckdb gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.features.store import apply_store, open_store, quiet
from components.layout.paths import Layout
from tests.log_builders import build_run, random_log, small_config, small_spec
from tests.path_builders import nested
from tests.spark_builders import QUICK, needs_spark, stop_spark

SPEC = small_spec("kuairand")
CONFIG = small_config(SPEC)
FEATURES = ["post_popularity:packed", "affinity:packed", "history:history"]
NAMES = ("a b", "{a,b}", "[a-z]", "a*b", "^a", "a\\b", "day=3", "a%20b", "a?b", "x #y")
"""What Hadoop, Spark or a URI could read something else in."""

pytestmark = [
    needs_spark,
    pytest.mark.slow,
]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Three days of a random log in a folder with a difficult name."""
    layout = Layout.at(nested(tmp_path, NAMES))
    build_run(layout, random_log(SPEC, 3, rows=300, members=9), CONFIG)
    return layout


@pytest.fixture
def spark_store(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The run's store with Spark for duckdb, as the configuration chooses it, and applied."""
    monkeypatch.setenv("FEEDSR_SPARK_MASTER", "local[2]")
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    store = open_store(layout, small_config(SPEC, offline_store="spark"))
    store.config.offline_store.spark_conf |= QUICK
    apply_store(layout, SPEC, store)
    yield store
    stop_spark()


def targets(layout: Layout) -> pd.DataFrame:
    """The impressions of all days as Feast takes them, every other one after the last day."""
    files = [layout.impressions_day(day) for day in layout.impression_days()]
    rows = pa.concat_tables([pq.read_table(path) for path in files]).to_pandas()
    keys = {
        name: rows[name] if name in rows else rows["post_id"] % 4
        for view in SPEC.views
        for name in view.keys
    }
    times = pd.to_datetime(rows["event_time"], unit="ms", utc=True)
    times += pd.to_timedelta([10 * (place % 2) for place in range(len(rows))], unit="D")
    return pd.DataFrame({**keys, "event_timestamp": times, "row": range(len(rows))})


def joined(store: Any, rows: pd.DataFrame) -> list[dict[str, Any]]:
    with quiet():
        answer = store.get_historical_features(
            entity_df=rows, features=FEATURES, full_feature_names=True
        )
        return answer.to_arrow().sort_by("row").to_pylist()


def test_point_in_time_rows_are_those_of_duckdb(layout: Layout, spark_store: Any) -> None:
    rows = targets(layout)
    names = [name.replace(":", "__") for name in FEATURES]
    spark = joined(spark_store, rows.copy())
    local = open_store(layout, CONFIG)
    apply_store(layout, SPEC, local)
    duckdb = joined(local, rows.copy())
    assert len(spark) == len(rows)
    for name in ("row", *names):
        assert [row[name] for row in spark] == [row[name] for row in duckdb], name
    for name in names:
        assert 0 < sum(row[name] is None for row in spark) < len(rows), name
