# SPDX-License-Identifier: Apache-2.0
"""Serving's commands: where it serves, and whose feed is ranked from which posts."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.config import load_config
from components.layout.paths import Layout
from components.loop.serve import Ranking
from tests.components.cli.conftest import Feedsr, StandIn


def test_a_root_is_served_on_the_port_that_is_named(
    feedsr: Feedsr, stand_in: StandIn, tmp_path: Path
) -> None:
    calls = stand_in("components.loop.serve.serve")
    for words in ([], ["--port", "9000"], ["--port", "0"]):
        assert feedsr("serve", *words, "--root", tmp_path, "--config", "kuairand").status == 0
    assert [call["http_port"] for call in calls] == [8080, 9000, 0]
    assert calls[0]["layout"] == Layout.at(tmp_path)
    assert calls[0]["config"] == load_config("kuairand")


@pytest.mark.parametrize(
    ("words", "member", "candidates"),
    [
        ([], None, None),
        (["--member", "7"], 7, None),
        (["--member", "0", "--candidates", "17,4, 99"], 0, [17, 4, 99]),
    ],
)
def test_the_member_and_the_posts_that_are_named_are_ranked(
    feedsr: Feedsr,
    stand_in: StandIn,
    words: list[str],
    member: int | None,
    candidates: list[int] | None,
) -> None:
    ranking = Ranking(member_id=7, time_ms=0, model_version="v1", tasks=(), flags=[], posts=[])
    calls = stand_in("components.loop.serve.rank", ranking)
    shown = stand_in("components.loop.serve.render_table")
    assert feedsr("rank", *words).status == 0
    (call,) = calls
    assert (call["member"], call["candidates"]) == (member, candidates)
    assert call["layout"].root == Path("runs/demo").resolve()
    assert shown == [{"ranking": ranking}]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rank", "--member", "1"], "run feedsr daily first"),
        (["rank", "--candidates", "a,b"], "candidates 'a,b': want post ids with commas"),
        (["serve", "--port", "0"], "no model in production"),
    ],
)
def test_a_mistake_is_one_sentence(
    feedsr: Feedsr, tmp_path: Path, words: list[str], told: str
) -> None:
    assert told in feedsr(*words, "--root", tmp_path).sentence
