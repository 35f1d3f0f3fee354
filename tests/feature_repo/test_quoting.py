# SPDX-License-Identifier: Apache-2.0
"""A path is what it says, to duckdb, to SQL and to Feast, with whatever is in its name."""

from __future__ import annotations

import os
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from feast.repo_config import load_repo_config
from hypothesis import example, given, settings
from hypothesis import strategies as st

from feature_repo.quoting import SECRETS, duckdb_files, duckdb_pattern, feast_yaml
from feature_repo.sources import file_source
from tests.path_builders import NAMES

NEIGHBOURS = ("aXb", "abd", "acd", "abb", "x", "a", "aéb", "a😀b", "a^b", "a]b", "a\x7fb", "a b")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of every name, each with one file that holds the name; neighbours among them."""
    home = tmp_path_factory.mktemp("names")
    for name in (*NAMES, *NEIGHBOURS):
        (home / name).mkdir()
        pq.write_table(pa.table({"name": [name]}), home / name / "day=1.parquet")
    return home


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


@pytest.mark.parametrize("name", NAMES)
def test_duckdb_reads_the_files_of_that_name_alone(
    folders: Path, connection: duckdb.DuckDBPyConnection, name: str
) -> None:
    listed = duckdb_files([folders / name / "day=1.parquet"])
    query = f"select name from read_parquet({listed}, hive_partitioning = false)"
    assert connection.execute(query).fetchall() == [(name,)]
    pattern = duckdb_pattern(folders / name) + "/day=*.parquet"
    rows = connection.execute("select name from read_parquet(?)", [[pattern]]).fetchall()
    assert rows == [(name,)]


def test_files_come_in_the_order_given(
    folders: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    names = ["a'b", "a[bc]d", "abd"]
    listed = duckdb_files(folders / name / "day=1.parquet" for name in names)
    rows = connection.execute(f"select name from read_parquet({listed})").fetchall()
    assert [name for (name,) in rows] == names


def test_a_path_without_special_characters_stays_as_it_is() -> None:
    assert duckdb_pattern("/runs/demo-1/day=2.parquet") == "/runs/demo-1/day=2.parquet"
    assert feast_yaml({"a": "b_1", "c": 3, "d": {"e": "yes"}}) == "a: b_1\nc: 3\nd:\n  e: 'yes'\n"


def test_the_name_of_a_secret_stays_one_that_feast_replaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SECRETS[0], "a$b'#: c")
    declared = {"x": f'h:1,password="${{{SECRETS[0]}}}"', "y": "$HOME ${HOME}"}
    text = feast_yaml(declared)
    assert "a$b" not in text
    read = yaml.safe_load(os.path.expandvars(text))
    assert read == {"x": 'h:1,password="a$b\'#: c"', "y": "$HOME ${HOME}"}


def test_a_source_of_feast_reads_the_files_of_its_root_alone(folders: Path) -> None:
    source = file_source("post_popularity", folders / "a[bc]d")
    assert source.path == f"{folders}/a[[]bc]d/features/post_popularity/day=*.parquet"


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@settings(deadline=None, max_examples=200)
@given(name=text)
@example(name="/x #y/$HOME")
@example(name="\x00\x85\u2028 ")
def test_feast_reads_what_was_written(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = tmp_path_factory.getbasetemp() / "feature_store.yaml"
    registry = f"/{name}"
    values = {
        "project": "feedsr",
        "provider": "local",
        "registry": registry,
        "online_store": {"type": "sqlite", "path": f"/a/{name}"},
        "entity_key_serialization_version": 3,
    }
    path.write_text(feast_yaml(values), encoding="utf-8")
    config = load_repo_config(path.parent, path)
    assert config.registry.path == registry
    assert config.online_store.path == f"/a/{name}"
