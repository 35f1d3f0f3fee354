# SPDX-License-Identifier: Apache-2.0
"""The online store on a real redis-server, where there is one: the same bytes as in SQLite."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path

import pytest
from feast.infra.online_stores.redis import RedisOnlineStore
from redis import Redis

from components.features.online import materialize
from components.features.store import apply_store, open_store, reachable
from components.layout.paths import Layout
from tests.log_builders import build_run, random_log, small_config
from tests.online_builders import (
    CONFIG,
    SPEC,
    assert_online_is_offline,
    certificate,
    change_the_log,
    online,
    redis_cluster,
    redis_server,
)

REAL = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="there is no redis-server on PATH"
)
PASSWORD = "s3cret:$HOME'#=x"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.at(tmp_path)


@pytest.mark.redis
@REAL
def test_redis_holds_the_same_bytes(layout, monkeypatch):
    config = small_config(SPEC, online_store="redis")
    log = random_log(SPEC, 8)

    def bring_online(days: list[str]) -> None:
        materialize(layout, days[-1], config)
        assert_online_is_offline(layout, days, config)

    with redis_server(layout.root) as address:
        monkeypatch.setenv("FEEDSR_REDIS", address)
        days = build_run(layout, log, config, bring_online)
        before = online(layout, config)
        materialize(layout, days[-2], config)
        materialize(layout, days[-1], config)
        assert online(layout, config) == before


@pytest.mark.redis
@REAL
def test_another_store_is_filled_whole_and_corrected_days_reach_redis(layout, monkeypatch):
    config = small_config(SPEC, online_store="redis")
    days = build_run(layout, random_log(SPEC, 12, rows=40, members=12, posts=9, days=9), CONFIG)
    materialize(layout, days[-1], CONFIG)
    with redis_server(layout.root) as address:
        monkeypatch.setenv("FEEDSR_REDIS", address)
        materialize(layout, days[-1], config)
        assert_online_is_offline(layout, days, config)
        change_the_log(layout, config)


def stored(layout: Layout) -> list[Path]:
    """The files of a root that hold the password."""
    files = [path for path in layout.root.rglob("*") if path.is_file()]
    return [path for path in files if PASSWORD.encode() in path.read_bytes()]


@pytest.mark.redis
@REAL
@pytest.mark.parametrize("password", [PASSWORD, "0123456789", "12e4", "true"])
def test_a_password_comes_from_the_environment_alone(layout, tmp_path, monkeypatch, password):
    config = small_config(SPEC, online_store="redis")
    (tmp_path / "server").mkdir()
    with redis_server(tmp_path / "server", "--requirepass", password) as address:
        monkeypatch.setenv("FEEDSR_REDIS", address)
        monkeypatch.setenv("FEEDSR_REDIS_PASSWORD", password)
        store = open_store(layout, config)
        apply_store(layout, SPEC, store)
        assert store.get_online_features(
            features=["history:history"], entity_rows=[{"member_id": 1}]
        ).to_dict()["history"] == [None]
        assert stored(layout) == []
        monkeypatch.setenv("FEEDSR_REDIS_PASSWORD", "xyzzy")
        with pytest.raises(ConnectionError, match=f"redis at {address}.* cannot be reached") as no:
            materialize_nothing(layout, config)
        assert "xyzzy" not in str(no.value)


def materialize_nothing(layout: Layout, config) -> None:
    """Takes a view away, which asks the store."""
    store = open_store(layout, config)
    with reachable(store):
        store.apply([], objects_to_delete=[store.get_feature_view("history")], partial=False)


@pytest.mark.redis
@REAL
@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl on PATH")
def test_redis_is_spoken_to_in_tls_that_is_checked(layout, tmp_path, monkeypatch):
    config = small_config(SPEC, online_store="redis")
    days = build_run(layout, random_log(SPEC, 8, rows=30), config)
    own, key = certificate(tmp_path)
    files = (
        "--tls-cert-file",
        str(own),
        "--tls-key-file",
        str(key),
        "--tls-ca-cert-file",
        str(own),
    )
    options = (*files, "--tls-auth-clients", "no")
    with redis_server(tmp_path, *options, listen="tls-port") as address:
        monkeypatch.setenv("FEEDSR_REDIS", f"{address},ssl=true,ssl_ca_certs={own}")
        materialize(layout, days[-1], config)
        assert_online_is_offline(layout, days, config)
        monkeypatch.setenv("FEEDSR_REDIS", f"{address},ssl=true")
        with pytest.raises(ConnectionError, match=r"(?i)certificate"):
            materialize(layout, days[-1], config)


@pytest.mark.redis
@REAL
@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="there is no redis-cli on PATH")
def test_many_nodes_hold_the_same_bytes_each_some(layout, tmp_path, monkeypatch):
    config = small_config(SPEC, online_store="redis_cluster")
    with redis_cluster(tmp_path / "nodes") as nodes:
        monkeypatch.setenv("FEEDSR_REDIS", ",".join(nodes[:2]))
        change_the_log(layout, config)
        held = [Redis(*node.split(":"), socket_timeout=5).dbsize() for node in nodes]
    assert min(held) > 0


def test_a_server_that_says_nothing_is_given_up(layout, monkeypatch):
    days = build_run(layout, random_log(SPEC, 8, rows=20), CONFIG)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("FEEDSR_REDIS", f"{address},socket_timeout=0.2")
        begun = time.monotonic()
        with pytest.raises(ConnectionError, match=r"cannot be reached: Timeout"):
            materialize(layout, days[-1], small_config(SPEC, online_store="redis"))
    assert time.monotonic() - begun < 120


def test_a_call_waits_for_a_time_that_is_declared(layout, monkeypatch):
    monkeypatch.setenv("FEEDSR_REDIS", "redis.example:1,socket_timeout=3")
    for kind in ("redis", "redis_cluster"):
        store = open_store(layout, small_config(SPEC, online_store=kind))
        declared = store.config.online_store
        nodes, options = RedisOnlineStore._parse_connection_string(declared.connection_string)
        assert nodes == [{"host": "redis.example", "port": "1"}]
        assert options == {"socket_connect_timeout": 5, "socket_timeout": 3}
        assert declared.redis_type.value == kind
