# SPDX-License-Identifier: Apache-2.0
"""A root that was copied or moved has its own store: it reads and changes no other root's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from components.features.histories import histories
from components.features.offline import features
from components.features.online import materialize
from components.features.store import HEADER, follow_root, open_store, quiet
from components.layout.paths import Layout
from feature_repo.quoting import feast_yaml
from serving.history import decode_history
from serving.transformer.store_client import StoreClient
from tests.log_builders import random_log
from tests.loop_builders import digests, online_rows
from tests.online_builders import CONFIG, SPEC, assert_online_is_offline
from tests.path_builders import DUCKDB, FEAST, nested

LOG = random_log(SPEC, 24, rows=90, members=6)
PROJECT = Path(__file__).parents[3]
FEAST_CLI = "import tests.online_builders; from feast.cli.cli import cli; cli()"


@pytest.fixture
def first(tmp_path: Path) -> Layout:
    """A root whose online store is as of the last day but one."""
    layout = Layout.at(tmp_path / "first")
    days = LOG.write(layout)
    for day in days[:-1]:
        build(layout, day)
    materialize(layout, days[-2], CONFIG)
    return layout


def build(layout: Layout, day: str) -> None:
    features(layout, day, CONFIG)
    histories(layout, day, CONFIG)


def state(layout: Layout) -> tuple[object, object]:
    """What a root has online, and every byte of it."""
    return online_rows(layout), digests(layout.root, ".")


def served(layout: Layout) -> dict[int, int]:
    """How many impressions the transformer's own client knows of each member."""
    keys = [(member,) for member in range(1, 7)]
    rows = StoreClient(layout.feast, SPEC).read("history", keys)
    return {
        key[0]: decode_history(row.value, SPEC).count for key, row in zip(keys, rows, strict=True)
    }


@pytest.mark.law
@pytest.mark.parametrize("gone", [False, True], ids=["copied", "moved"])
def test_each_root_serves_and_changes_its_own_store(first, tmp_path, gone):
    second = Layout.at(nested(tmp_path / "second", (*FEAST, *DUCKDB)) / "root")
    before, old = served(first), online_rows(first)
    (shutil.move if gone else shutil.copytree)(first.root, second.root)
    kept = None if gone else state(first)
    assert served(second) == before
    assert online_rows(second) == old
    days = second.impression_days()
    build(second, days[-1])
    materialize(second, days[-1], CONFIG)
    assert_online_is_offline(second, days)
    assert sum(served(second).values()) > sum(before.values())
    if gone:
        assert not first.root.exists()
    else:
        assert state(first) == kept
        assert served(first) == before


@pytest.mark.law
def test_point_in_time_rows_are_of_the_copy(first, tmp_path, monkeypatch):
    """Also before it was applied, and wherever the process runs."""
    second = Layout.at(tmp_path / "second")
    shutil.copytree(first.root, second.root)
    for path in first.feature_dir("affinity").iterdir():
        path.unlink()
    monkeypatch.chdir(tmp_path)
    names = {"affinity", "history"}
    pulled = {name: all_rows(second, name) for name in names}
    assert pulled["affinity"].num_rows == sum(
        pq.read_metadata(p).num_rows for p in second.feature_dir("affinity").glob("*.parquet")
    )
    assert pulled["history"].num_rows == 6
    assert joined(second)["packed"].null_count == 0


def all_rows(layout: Layout, name: str) -> pa.Table:
    store = open_store(layout, CONFIG)
    view = store.get_feature_view(name)
    field = view.features[0].name
    return (
        store._get_provider()
        .offline_store.pull_all_from_table_or_query(
            store.config, view.batch_source, list(view.join_keys), [field], "event_timestamp"
        )
        .to_arrow()
    )


def joined(layout: Layout) -> pa.Table:
    """The affinity rows as of the end of the last day, of each key that there is."""
    import pandas as pd

    rows = all_rows(layout, "affinity").to_pandas()[["member_id", "actor_id"]].drop_duplicates()
    rows["event_timestamp"] = pd.Timestamp(SPEC.day_end("2030-01-01"), unit="ms", tz="UTC")
    with quiet():
        job = open_store(layout, CONFIG).get_historical_features(
            entity_df=rows, features=["affinity:packed"]
        )
        return job.to_arrow()


def feast(layout: Layout, *arguments: str) -> None:
    """One of Feast's commands in a root's repository, from elsewhere; the spec is known there."""
    variables = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", FEAST_CLI, "-c", layout.feast, *arguments]
    done = subprocess.run(
        command, cwd="/", env=variables, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.law
@pytest.mark.parametrize("gone", [False, True], ids=["copied", "moved"])
def test_feast_at_the_command_line_reads_and_fills_its_own(first, tmp_path, gone):
    days = first.impression_days()
    build(first, days[-1])
    second = Layout.at(tmp_path / "second")
    (shutil.move if gone else shutil.copytree)(first.root, second.root)
    kept = None if gone else state(first)
    feast(second, "materialize-incremental", "2100-01-01T00:00:00")
    assert_online_is_offline(second, days)
    assert not first.root.exists() if gone else state(first) == kept


@pytest.mark.slow
@pytest.mark.law
def test_feast_apply_in_a_copy_leaves_the_tables_of_the_first(first, tmp_path):
    feast(first, "apply")
    kept = online_rows(first)
    second = Layout.at(tmp_path / "second")
    shutil.copytree(first.root, second.root)
    materialize(second, second.impression_days()[-2], CONFIG)
    feast(second, "apply")
    assert online_rows(first) == kept == online_rows(second)


def test_a_repository_that_names_its_first_place_is_made_to_name_its_own(first, tmp_path):
    """As those that were rendered before, with what they say of another machine left as it is."""
    path = first.feast / "feature_store.yaml"
    declared = yaml.safe_load(path.read_text())
    declared["registry"] = str(first.feast / "registry.db")
    declared["online_store"]["path"] = str(first.feast / "online_store.db")
    path.write_text(HEADER + feast_yaml(declared))
    second = Layout.at(tmp_path / "second")
    shutil.copytree(first.root, second.root)
    follow_root(second)
    shutil.rmtree(first.root)
    assert len(served(second)) == 6
    assert not first.root.exists()
    redis = {"registry": "/elsewhere/feast/registry.db"}
    redis["online_store"] = {"type": "redis", "connection_string": "redis.example:1"}
    (second.feast / "feature_store.yaml").write_text(feast_yaml(redis))
    follow_root(second)
    follow_root(second)
    read = yaml.safe_load((second.feast / "feature_store.yaml").read_text())
    assert read == {**redis, "registry": "registry.db"}
    follow_root(Layout.at(tmp_path / "none"))
