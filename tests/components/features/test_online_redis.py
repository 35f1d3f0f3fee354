# SPDX-License-Identifier: Apache-2.0
"""The online store on a real redis-server, where there is one: the same bytes as in SQLite."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.features.online import materialize
from components.layout.paths import Layout
from tests.log_builders import build_run, random_log, small_config
from tests.online_builders import (
    CONFIG,
    SPEC,
    assert_online_is_offline,
    change_the_log,
    online,
    redis_server,
)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.at(tmp_path)


@pytest.mark.redis
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="there is no redis-server on PATH")
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
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="there is no redis-server on PATH")
def test_another_store_is_filled_whole_and_corrected_days_reach_redis(layout, monkeypatch):
    config = small_config(SPEC, online_store="redis")
    days = build_run(layout, random_log(SPEC, 12, rows=40, members=12, posts=9, days=9), CONFIG)
    materialize(layout, days[-1], CONFIG)
    with redis_server(layout.root) as address:
        monkeypatch.setenv("FEEDSR_REDIS", address)
        materialize(layout, days[-1], config)
        assert_online_is_offline(layout, days, config)
        change_the_log(layout, config)
