# SPDX-License-Identifier: Apache-2.0
"""Ranking one member through the real servers, and the table people see."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from rich.console import Console

from components.layout import Layout
from components.rank import newest_posts, rank, render_table
from serving.launch import NAME, free_ports
from tests.serving_builders import SmallRun

SERVE = """
import sys
from components.config import load_config
from components.layout import Layout
from components.rank import serve
serve(Layout.at(sys.argv[1]), load_config("demo"), http_port=int(sys.argv[2]))
"""


def test_defaults_rank_the_newest_unseen_posts_of_the_most_active_member(
    small_run: SmallRun,
) -> None:
    ranking = rank(small_run.layout, small_run.config)
    assert ranking.member_id == small_run.members[0]
    assert ranking.time_ms == small_run.end_ms
    unseen = newest_posts(small_run.layout, small_run.members[0], small_run.end_ms)
    assert sorted(r["post_id"] for r in ranking.rows) == sorted(unseen)
    assert len(ranking.rows) == 20
    sink = io.StringIO()
    render_table(ranking, Console(file=sink, width=160))
    table = sink.getvalue()
    for word in ("post", "click", "long_dwell", "score", str(ranking.rows[0]["post_id"])):
        assert word in table


def test_newest_posts_leaves_out_what_was_seen_and_what_is_not_made_yet(
    small_run: SmallRun,
) -> None:
    everything = newest_posts(small_run.layout, small_run.members[0], small_run.end_ms, 10_000)
    assert 0 < len(everything) < len(small_run.posts)
    with pytest.raises(ValueError, match="has seen every post"):
        newest_posts(small_run.layout, small_run.members[0], 0)


def test_without_a_model_it_says_what_to_run(small_run: SmallRun, tmp_path: Path) -> None:
    empty = Layout.at(tmp_path)
    with pytest.raises(ValueError, match="has no features; run feedsr daily first"):
        rank(empty, small_run.config)
    with pytest.raises(ValueError, match="has no model in production"):
        rank(empty, small_run.config, member=1, candidates=[1], time_ms=0)


def test_a_refusal_of_the_server_is_its_own_sentence(small_run: SmallRun) -> None:
    with pytest.raises(ValueError, match="answered 400: the request has 600 candidates"):
        rank(small_run.layout, small_run.config, candidates=list(range(600)))


def test_serve_answers_until_sigterm_and_rank_finds_it(small_run: SmallRun) -> None:
    [port] = free_ports(1)
    root = str(small_run.layout.root)
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, root, str(port)], stderr=subprocess.PIPE
    )
    address = small_run.layout.root / "serving.json"
    try:
        end = time.monotonic() + 120
        while not address.is_file() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        assert json.loads(address.read_text())["url"] == f"http://127.0.0.1:{port}"
        start = time.monotonic()
        ranking = rank(small_run.layout, small_run.config, candidates=small_run.posts[:3])
        assert len(ranking.rows) == 3
        assert time.monotonic() - start < 3
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/{NAME}/ready") as reply:
            assert reply.status == 200
    finally:
        os.kill(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert not address.exists()
