# SPDX-License-Identifier: Apache-2.0
"""The rendered Feast repository, from Python and from Feast's own command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import redis
import yaml
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.repo_config import load_repo_config

from components.features.online import materialize, online_histories
from components.features.store import STORES, apply_store, open_store, reachable, render_store
from components.layout.paths import Layout
from feature_repo.specs import SIMULATOR
from tests.log_builders import build_run, random_log, small_config, small_spec
from tests.path_builders import DUCKDB, FEAST, YAML, around, nested

PROJECT = Path(__file__).parents[3]


def feast(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "feast"), *arguments]
    variables = {**os.environ, "PYTHONPATH": str(PROJECT), **environment}
    return subprocess.run(
        command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_a_rendered_store_names_its_own_run_and_the_chosen_online_store(
    tmp_path, store, monkeypatch
):
    monkeypatch.setenv("FEEDSR_REDIS", "redis.example:6380")
    layout = Layout.at(tmp_path)
    config = small_config(SIMULATOR, online_store=store)
    folder = render_store(layout, config)
    declared = yaml.safe_load((folder / "feature_store.yaml").read_text())
    assert declared["online_store"]["type"] == store
    assert declared["offline_store"]["root"] == ".."
    assert declared["registry"] == "registry.db"
    where = declared["online_store"].get("path") or declared["online_store"]["connection_string"]
    where = where.split(",")[-1]
    assert where == {"sqlite": "online_store.db", "redis": "redis.example:6380"}[store]
    stamp = (folder / "feature_store.yaml").stat().st_mtime_ns
    render_store(layout, config)
    assert (folder / "feature_store.yaml").stat().st_mtime_ns == stamp


def test_an_undeclared_store_is_one_sentence(tmp_path):
    config = small_config(SIMULATOR, online_store="cassandra")
    with pytest.raises(ValueError, match="declare the store there"):
        render_store(Layout.at(tmp_path), config)


def test_the_local_default_is_the_sqlite_store():
    default = PROJECT / "feature_repo" / "feature_store.yaml"
    assert default.read_text() == (STORES / "sqlite.yaml").read_text()


@pytest.mark.parametrize("address", ["redis.example", "127.0.0.1:port", "a b:1"])
def test_an_address_that_is_none_is_one_sentence(tmp_path, monkeypatch, address):
    monkeypatch.setenv("FEEDSR_REDIS", f"{address},password=secret")
    with pytest.raises(ValueError, match="want host:port") as error:
        render_store(Layout.at(tmp_path), small_config(SIMULATOR, online_store="redis"))
    assert address in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("password", ["x y", 'a"b', "a,b", "a\\b", "a\tb"])
def test_a_password_that_feast_does_not_take_is_one_sentence(tmp_path, monkeypatch, password):
    monkeypatch.setenv("FEEDSR_REDIS_PASSWORD", password)
    with pytest.raises(ValueError, match="FEEDSR_REDIS_PASSWORD holds a space") as error:
        render_store(Layout.at(tmp_path), small_config(SIMULATOR, online_store="redis"))
    assert password not in str(error.value)


def test_a_password_beside_the_address_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("FEEDSR_REDIS", "redis.example:6380,password=secret")
    with pytest.raises(ValueError, match="want it in FEEDSR_REDIS_PASSWORD") as error:
        render_store(Layout.at(tmp_path), small_config(SIMULATOR, online_store="redis"))
    assert "secret" not in str(error.value)
    assert list(tmp_path.rglob("*.yaml")) == []


def test_the_redis_password_is_not_told(tmp_path, monkeypatch):
    monkeypatch.setenv("FEEDSR_REDIS", "redis.example:6380")
    monkeypatch.setenv("FEEDSR_REDIS_PASSWORD", "secret")
    store = open_store(Layout.at(tmp_path), small_config(SIMULATOR, online_store="redis"))
    with pytest.raises(ConnectionError, match=r"redis at redis.example:6380\)") as error:
        refuse(store, "Command # 1 (HSET \0\1) of pipeline caused error: out of memory")
    assert "out of memory; start it" in str(error.value)
    assert "HSET" not in str(error.value)
    assert "secret" not in str(error.value)


def refuse(store, text: str) -> None:
    with reachable(store):
        raise redis.exceptions.ResponseError(text)


def test_a_damaged_registry_is_one_sentence(tmp_path):
    layout, config = Layout.at(tmp_path), small_config(SIMULATOR)
    apply_store(layout, SIMULATOR, open_store(layout, config))
    (layout.feast / "registry.db").write_bytes(b"garbage" * 50)
    with pytest.raises(ValueError, match=r"registry.db is damaged .*; remove it"):
        open_store(layout, config)


def test_a_file_that_is_no_database_is_one_sentence(tmp_path):
    layout, config = Layout.at(tmp_path), small_config(SIMULATOR)
    store = open_store(layout, config)
    (layout.feast / "online_store.db").write_bytes(b"garbage" * 500)
    with pytest.raises(ConnectionError, match="not a database; start it"):
        apply_store(layout, SIMULATOR, store)


def test_other_errors_pass_through(tmp_path):
    layout = Layout.at(tmp_path)
    store = open_store(layout, small_config(SIMULATOR))
    with pytest.raises(KeyError), reachable(store):
        raise KeyError("mine")


def test_a_broken_online_file_is_one_sentence(tmp_path):
    layout = Layout.at(tmp_path)
    config = small_config(SIMULATOR)
    store = open_store(layout, config)
    (layout.feast / "online_store.db").mkdir()
    with pytest.raises(ConnectionError, match=r"online store \(sqlite at .* cannot be reached"):
        apply_store(layout, SIMULATOR, store)


@pytest.mark.slow
def test_feast_apply_works_from_the_command_line(tmp_path, monkeypatch):
    """In the rendered folder and in feature_repo, with a root of any name; what is online stays.

    In feature_repo it is Feast that puts the root into the declaration.
    """
    monkeypatch.setenv("EXPANDED", str(tmp_path / "expanded"))
    spec = small_spec("simulator")
    names = (*(n for n in YAML if n.isprintable()), *FEAST, *DUCKDB)
    layout, config = Layout.at(nested(tmp_path / "runs", names)), small_config(spec)
    days = build_run(layout, random_log(spec, 0), config)
    materialize(layout, days[-1], config)
    before = online_histories(open_store(layout, config), [1, 2, 3])
    shipped = small_config(SIMULATOR)
    render_store(layout, shipped)
    beside = around(layout.root, tmp_path / "runs")
    applied = feast("apply", cwd=layout.feast)
    assert applied.returncode == 0, applied.stderr[-2000:]
    environment = {"FEEDSR_ROOT": str(layout.root), "FEEDSR_SPEC": "simulator"}
    repo = shutil.copytree(PROJECT / "feature_repo", tmp_path / "copy" / "feature_repo")
    applied = feast("-c", str(repo), "apply", cwd=tmp_path, **environment)
    assert applied.returncode == 0, applied.stderr[-2000:]
    store = open_store(layout, shipped)
    served = {p.name for p in store.get_feature_service("feed_sr").feature_view_projections}
    assert served == {"history", *(view.name for view in SIMULATOR.views)}
    assert store.get_feature_view("history").tags["spec_hash"] == SIMULATOR.hash
    assert before
    assert online_histories(store, [1, 2, 3]) == before
    assert around(layout.root, tmp_path / "runs") == beside
    assert not (tmp_path / "expanded").exists()


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_what_is_declared_is_what_feast_reads(tmp_path, monkeypatch, store):
    """Paths and passwords with characters of YAML's and with names of variables."""
    monkeypatch.setenv("EXPANDED", "/elsewhere")
    monkeypatch.setenv("FEEDSR_REDIS", "redis.example:6380,username=#a$EXPANDED:${EXPANDED}'\"")
    monkeypatch.setenv("FEEDSR_REDIS_PASSWORD", "#b$EXPANDED:${EXPANDED}'")
    layout = Layout.at(tmp_path / "x #y: $EXPANDED")
    config = small_config(SIMULATOR, online_store=store)
    folder = render_store(layout, config)
    read = load_repo_config(folder, folder / "feature_store.yaml")
    assert read.registry.path == "registry.db"
    online = read.online_store
    if store == "sqlite":
        assert online.path == "online_store.db"
        open_store(layout, config).apply([])
        assert (layout.feast / "registry.db").is_file()
    else:
        written = (folder / "feature_store.yaml").read_text()
        assert os.environ["FEEDSR_REDIS_PASSWORD"] not in written
        _, options = RedisOnlineStore._parse_connection_string(online.connection_string)
        assert options["username"] == "#a$EXPANDED:${EXPANDED}'\""
        assert options["password"] == os.environ["FEEDSR_REDIS_PASSWORD"]
    assert [p.name for p in tmp_path.iterdir()] == ["x #y: $EXPANDED"]
