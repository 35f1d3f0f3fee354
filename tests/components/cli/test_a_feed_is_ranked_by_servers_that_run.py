# SPDX-License-Identifier: Apache-2.0
"""`feedsr rank` with nothing stood in for: it asks the servers that run, and shows the feed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from components.layout.files import write_json
from serving.launch import Pair
from tests.components.cli.conftest import Feedsr
from tests.serving_builders import SmallRun


@pytest.fixture
def serving_root(small_run: SmallRun, servers: Pair) -> Iterator[Path]:
    """The small run's root with a note that its servers run, as `feedsr serve` leaves it."""
    note = small_run.layout.root / "serving.json"
    write_json(note, {"url": servers.transformer.url, "pid": os.getpid()})
    yield small_run.layout.root
    note.unlink()


def test_a_feed_is_ranked_by_the_servers_that_run(
    feedsr: Feedsr, small_run: SmallRun, serving_root: Path
) -> None:
    member, posts = small_run.members[1], small_run.posts[:3]
    words = ["--member", member, "--candidates", ",".join(map(str, posts))]
    ended = feedsr("rank", *words, "--root", serving_root)
    assert ended.err == ""
    assert f"member {member}, ranked by {small_run.day}-test" in ended.out
    ranked = [line.split()[:2] for line in ended.out.splitlines() if line.strip()[:1].isdigit()]
    assert [place for place, _ in ranked[:3]] == ["1", "2", "3"]
    assert {post for _, post in ranked[:3]} == set(map(str, posts))


def test_a_refusal_of_the_servers_is_one_sentence(
    feedsr: Feedsr, small_run: SmallRun, serving_root: Path
) -> None:
    too_many = ",".join(map(str, range(small_run.config.max_candidates + 1)))
    told = feedsr("rank", "--candidates", too_many, "--root", serving_root).sentence
    assert "candidates" in told


def test_the_wait_for_servers_that_do_not_run_yet_is_told(
    feedsr: Feedsr, small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def refuses(_: object) -> Iterator[None]:
        raise ValueError("port 1 is in use")
        yield

    monkeypatch.setattr("components.loop.serve.launch", refuses)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # serve's would stay after the test
    root = small_run.layout.root
    silent = feedsr("rank", "--root", root)
    monkeypatch.setenv("FEEDSR_PROGRESS", "lines")
    told = feedsr("rank", "--root", root), feedsr("serve", "--root", root)
    assert silent.sentence == "port 1 is in use"
    for ended in told:
        assert ended.err == "starting transformer and predictor\nfeedsr: port 1 is in use\n"
