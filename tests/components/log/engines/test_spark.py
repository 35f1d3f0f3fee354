# SPDX-License-Identifier: Apache-2.0
"""Law 8 on Spark: every file that a day leaves has the bytes that the local engine gives it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.features.histories import histories
from components.features.offline import features
from components.layout.paths import Layout
from components.log import buckets as dealing
from components.log.engines import LocalEngine, engine_named
from components.log.ingest import ingest
from feature_repo.specs import SIMULATOR
from tests.engine_builders import Numbers, numbers
from tests.log_builders import random_log, small_config, small_spec
from tests.raw_builders import DAYS, hard_days, write_log
from tests.spark_builders import needs_spark, stop_spark

SPEC = small_spec("kuairand")
LOCAL = small_config(SPEC, buckets=3)
SPARK = small_config(SPEC, buckets=3, engine="spark")

pytestmark = [needs_spark, pytest.mark.slow]


@pytest.fixture(autouse=True, scope="module")
def _two_cores() -> Iterator[None]:
    """A session on two cores for the tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEEDSR_SPARK_MASTER", "local[2]")
        yield
        stop_spark()


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, Layout, list[str]]:
    """Two roots with one log of seven days, late rows and rows that leave windows among them.

    Files of one log have one time: a state says what it was made from.
    """
    home = tmp_path_factory.mktemp("logs")
    log = random_log(SPEC, 5, rows=260, members=9, posts=9, days=7)
    days = log.write(Layout.at(home / "local"))
    shutil.copytree(home / "local", home / "spark")
    return Layout.at(home / "local"), Layout.at(home / "spark"), days


def files(layout: Layout) -> dict[str, bytes]:
    """Every file of a run, by its name below the root."""
    paths = [path for path in layout.root.rglob("*") if path.is_file()]
    return {str(path.relative_to(layout.root)): path.read_bytes() for path in paths}


def test_a_days_features_and_histories_are_those_of_the_local_engine(logs) -> None:
    """From nothing, and carried over days that were left out; nothing else is left behind."""
    local, spark, days = logs
    for day in (days[-5], days[-1]):
        for layout, config in ((local, LOCAL), (spark, SPARK)):
            assert features(layout, day, config)["affinity"] > 0
            assert histories(layout, day, config) > 0
        assert files(spark) == files(local), day
    written = {name.rpartition("/")[0] for name in files(local)}
    assert {"features/history", "state/affinity", "features/affinity"} <= written


def test_a_state_that_is_lost_is_made_anew(logs) -> None:
    local, spark, days = logs
    for layout, config in ((local, LOCAL), (spark, SPARK)):
        for path in (layout.history_bucket(1), layout.state("affinity") / "bucket=00002.parquet"):
            path.unlink()
        features(layout, days[-1], config)
        histories(layout, days[-1], config)
    assert files(spark) == files(local)


def test_a_checked_day_is_that_of_the_local_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Impressions, quarantine, counts and tables, by shares and with earlier days in reach."""
    monkeypatch.setattr(dealing, "ROWS_IN_MEMORY", 20)
    roots = {name: Layout.at(tmp_path / name) for name in ("local", "spark")}
    days = hard_days(SIMULATOR, np.random.default_rng(7))
    for name, layout in roots.items():
        write_log(layout, SIMULATOR, days)
        for day, table in days.items():
            pq.write_table(table, layout.raw_day(day), row_group_size=16)
        for day in DAYS:
            engine = name if day == DAYS[-1] else "local"
            ingest(layout, day, small_config(SIMULATOR, buckets=3, engine=engine))
    assert pq.ParquetFile(roots["local"].impressions_day(DAYS[-1])).num_row_groups == 3
    assert files(roots["spark"]) == files(roots["local"])


@pytest.mark.parametrize("buckets", [1, 12])
def test_every_bucket_has_its_rows_in_their_order(tmp_path: Path, buckets: int) -> None:
    """Also a bucket without rows; a table of one source has the other's rows in none of it."""

    def step(bucket: int, rows: Sequence[pa.Table]) -> pa.Table:
        first, second = rows
        assert first.schema == second.schema
        return first.append_column("bucket", pa.array([bucket] * first.num_rows, pa.int32()))

    said = []
    for engine in (LocalEngine(), engine_named("spark", tmp_path)):
        sources = Numbers(), Numbers(parts=())
        said.append([table.combine_chunks() for table in engine.by_bucket(sources, buckets, step)])
    assert said[1] == said[0]
    assert len(said[0]) == buckets
    assert [*tmp_path.iterdir()] == []


def test_pieces_of_work_come_back_in_order(tmp_path: Path) -> None:
    def work(item: pa.Table) -> Iterator[pa.RecordBatch]:
        yield from item.to_batches(max_chunksize=2)
        yield from item.to_batches(max_chunksize=3)

    items = [numbers(start) for start in (14, 0, 7)]
    local, spark = LocalEngine(), engine_named("spark", tmp_path)
    assert [*spark.each(items, work)] == [*local.each(items, work)]
    assert [*spark.each([], work)] == []
    assert [*spark.each(items, lambda item: [])] == []


def test_a_mistake_is_the_sentence_that_the_step_said(tmp_path: Path) -> None:
    def step(bucket: int, rows: Sequence[pa.Table]) -> pa.Table:
        raise ValueError(f"bucket {bucket} is not to be had")

    with pytest.raises(ValueError, match=r"^bucket \d is not to be had$"):
        [*engine_named("spark", tmp_path).by_bucket([Numbers()], 2, step)]
    assert [*tmp_path.iterdir()] == []


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".engine-left").mkdir()
    (tmp_path / "kept").mkdir()
    engine_named("spark", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
