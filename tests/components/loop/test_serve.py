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
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from components.layout.paths import Layout
from components.loop.serve import _running, newest_posts, rank, render_table, usual_request
from serving.launch import NAME, free_ports, launch
from tests.serving_builders import SmallRun

SERVE = """
import sys
from components.config import load_config
from components.layout.paths import Layout
from components.loop.serve import serve
serve(Layout.at(sys.argv[1]), load_config("demo"), http_port=int(sys.argv[2]))
"""


def test_defaults_rank_the_newest_unseen_posts_of_the_most_active_member(
    small_run: SmallRun,
) -> None:
    ranking = rank(small_run.layout, small_run.config)
    assert ranking.member_id == small_run.members[0]
    assert ranking.time_ms == small_run.end_ms
    unseen = newest_posts(small_run.layout, small_run.members[0], small_run.end_ms)
    assert sorted(post.post_id for post in ranking.posts) == sorted(unseen)
    assert len(ranking.posts) == 20
    sink = io.StringIO()
    render_table(ranking, Console(file=sink, width=160))
    table = sink.getvalue()
    for word in ("post", "click", "long_dwell", "score", str(ranking.posts[0].post_id)):
        assert word in table


def test_request_features_are_by_default_the_log_s_most_common(small_run: SmallRun) -> None:
    paths = (small_run.layout.root / "impressions").glob("day=*/part.parquet")
    seen = Counter(s for p in paths for s in pq.read_table(p)["surface"].to_pylist())
    assert usual_request(small_run.layout, small_run.config.spec) == {
        "surface": seen.most_common(1)[0][0]
    }
    posts = small_run.posts[:3]
    usual = rank(small_run.layout, small_run.config, candidates=posts)
    other = rank(small_run.layout, small_run.config, candidates=posts, request={"surface": -1})
    assert usual.posts != other.posts


def test_an_address_whose_server_is_gone_is_not_asked(small_run: SmallRun, tmp_path: Path) -> None:
    """Its port may be another root's by now."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    with launch(small_run.serving()) as pair:
        address = {"url": pair.transformer.url, "pid": done.pid}
        (tmp_path / "serving.json").write_text(json.dumps(address))
        assert _running(Layout.at(tmp_path)) is None
        (tmp_path / "serving.json").write_text(json.dumps({**address, "pid": os.getpid()}))
        assert _running(Layout.at(tmp_path)) == pair.transformer.url


def test_sigterm_while_the_servers_load_ends_serve_at_once(small_run: SmallRun) -> None:
    [port] = free_ports(1)
    root = str(small_run.layout.root)
    process = subprocess.Popen([sys.executable, "-c", SERVE, root, str(port)])
    end = time.monotonic() + 60
    while not children(process.pid) and time.monotonic() < end:
        time.sleep(0.02)
    servers = children(process.pid)
    assert servers
    start = time.monotonic()
    process.terminate()
    assert process.wait(30) == 0
    assert time.monotonic() - start < 5
    # A server that was only just born follows its launcher once it has loaded.
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in servers) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in servers)


def children(pid: int) -> list[str]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return path.read_text().split() if path.exists() else []


def test_newest_posts_leaves_out_what_was_seen_and_what_is_not_made_yet(
    small_run: SmallRun,
) -> None:
    everything = newest_posts(small_run.layout, small_run.members[0], small_run.end_ms, 10_000)
    assert 0 < len(everything) < len(small_run.posts)
    with pytest.raises(ValueError, match="has seen every post"):
        newest_posts(small_run.layout, small_run.members[0], 0)


def test_no_candidate_is_not_every_candidate(small_run: SmallRun) -> None:
    with pytest.raises(ValueError, match="there are no candidates to rank"):
        rank(small_run.layout, small_run.config, member=small_run.members[0], candidates=[])


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
        assert len(ranking.posts) == 3
        assert time.monotonic() - start < 3
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/{NAME}/ready") as reply:
            assert reply.status == 200
    finally:
        os.kill(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert not address.exists()
