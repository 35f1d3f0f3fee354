# SPDX-License-Identifier: Apache-2.0
"""The requests of a simulated day: whole, without repeats, and the same for the same seed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from components.log.sources import feed as module
from components.log.sources.feed import Columns, Feed, truth
from components.log.sources.feedback import ACTIONS, probabilities
from components.log.sources.simulator_config import SimulatorConfig
from components.log.sources.world import Posts
from feature_repo.spec import DAY_MS

SMALL = SimulatorConfig(days=3, members=60, actors=30, posts_per_day=40, impressions=2_000)
RANKED = SMALL.model_copy(update={"ranked": 1.5})


def drawn(config: SimulatorConfig) -> tuple[Feed, list[Columns], Posts]:
    """A feed, the impressions of its days, and every post of it."""
    feed = Feed(config)
    posts, days = list(feed.world.stock), []
    for day in range(config.days):
        posts.append(feed.world.next_day())
        chunks = list(feed.chunks(day))
        days.append({n: np.concatenate([c[n] for c in chunks]) for n in chunks[0]})
    return feed, days, Posts.join(posts)


@pytest.fixture(scope="module", params=[SMALL, RANKED], ids=["random", "ranked"])
def feed_days(request: pytest.FixtureRequest) -> tuple[Feed, list[Columns], Posts]:
    return drawn(request.param)


def test_a_request_is_whole(feed_days: tuple[Feed, list[Columns], Posts]) -> None:
    """Positions from 0 on without a gap, no post twice, one member, time, surface and visit."""
    feed, days, _ = feed_days
    ids = [day["request_id"] for day in days]
    assert all((np.diff(part) >= 0).all() for part in ids)
    assert all(a[-1] < b[0] for a, b in itertools.pairwise(ids))
    for day in days:
        begins = np.flatnonzero(np.diff(day["request_id"])) + 1
        for rows in np.split(np.arange(len(day["member_id"])), begins):
            assert day["position"][rows].tolist() == list(range(len(rows)))
            assert len(rows) <= feed.depths[1]
            assert len(set(day["post_id"][rows].tolist())) == len(rows)
            for name in ("member_id", "event_time", "arrival_time", "surface", "visit_id", "mood"):
                assert len(set(day[name][rows].tolist())) == 1, name


def test_what_is_shown_is_there_and_alive(feed_days: tuple[Feed, list[Columns], Posts]) -> None:
    feed, days, posts = feed_days
    for number, day in enumerate(days):
        created = posts.created_ms[day["post_id"] - 1]
        assert (created < day["event_time"]).all()
        oldest = feed.world.start_ms + (number - feed.config.post_life_days) * DAY_MS
        assert (created >= oldest).all()
        assert (feed.world.joined_day[day["member_id"] - 1] <= number).all()
        assert (day["arrival_time"] - day["event_time"] >= module.DELAY_MS[0]).all()
        assert (day["late"] == (day["arrival_time"] - day["event_time"] >= DAY_MS)).all()


def test_the_same_seed_draws_the_same_days() -> None:
    """Whatever else the process drew; another seed draws others."""
    first, again = drawn(SMALL)[1], drawn(SMALL)[1]
    for day, same in zip(first, again, strict=True):
        for name, values in day.items():
            np.testing.assert_array_equal(values, same[name])
    other = drawn(SMALL.model_copy(update={"seed": 1}))[1]
    assert not np.array_equal(first[0]["event_time"], other[0]["event_time"])


def test_members_see_about_as_much_as_was_asked_for() -> None:
    config = SMALL.model_copy(update={"impressions": 20_000, "members": 400})
    rows = sum(len(day["member_id"]) for day in drawn(config)[1])
    assert abs(rows / config.impressions - 1) < 0.1


def test_a_ranked_request_shows_the_same_posts_in_another_order() -> None:
    feed = Feed(RANKED)
    feed.world.next_day()
    live = Posts.join(feed.world.stock)
    request = np.repeat(np.arange(200), 5)
    post = np.tile([3, 9, 20, 41, 77], 200)
    part = {"member": np.arange(200) % 60, "time": np.full(200, feed.world.start_ms + DAY_MS)}
    ranked = feed._ranked(np.random.default_rng(0), part, live, request, post).reshape(200, 5)
    assert (np.sort(ranked, axis=1) == post.reshape(200, 5)).all()
    assert len({tuple(row) for row in ranked.tolist()}) > 20
    relevance = feed.relevance(
        np.repeat(part["member"], 5), ranked.ravel(), live, np.repeat(part["time"], 5)
    ).reshape(200, 5)
    assert relevance[:, 0].mean() > relevance[:, -1].mean() + 1


def test_the_truth_is_what_is_known_with_the_mood_and_without() -> None:
    relevance, mood = np.array([0.0, 3.0]), np.array([0.5, -1.0])
    examined = np.array([1.0, 0.25])
    columns = truth(relevance, mood, examined)
    known = probabilities(relevance + mood, examined)
    best = probabilities(relevance, examined)
    for name in ACTIONS:
        np.testing.assert_array_equal(columns[f"p_{name}"], known[name])
        np.testing.assert_array_equal(columns[f"b_{name}"], best[name])
    assert columns["mood"] is mood
    assert columns["examination"] is examined
