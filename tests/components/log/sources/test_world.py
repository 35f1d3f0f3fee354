# SPDX-License-Identifier: Apache-2.0
"""Who is in a simulated feed: interests that drift as planted, posts in order, draws by weight."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from components.log.sources.simulator_config import SimulatorConfig
from components.log.sources.world import LATENT, Posts, SegmentSampler, World, unit
from feature_repo.spec import DAY_MS

DEFAULT = SimulatorConfig()
SMALL = SimulatorConfig(days=4, members=80, actors=30, posts_per_day=60, impressions=3_000)


def test_interests_drift_by_the_planted_angle() -> None:
    config = SMALL.model_copy(update={"days": 12, "members": 500, "drift": 0.2})
    world = World(config)
    world.next_day()
    start, angles = world.interest_ML, []
    for _ in range(10):
        before = world.interest_ML
        world.next_day()
        cosine = (before * world.interest_ML).sum(1)
        angles.append(np.arccos(cosine).mean())
    assert abs(np.mean(angles) - 0.2) < 0.02
    far = np.arccos((start * world.interest_ML).sum(1)).mean()
    assert 0.45 < far < 0.75
    profile = (world.profile_ML * (world.first_interest_ML @ world.profile_map)).sum(1)
    planted = 1 / np.sqrt(1 + config.profile_noise**2)
    assert abs(profile.mean() - planted) < 0.1
    still = World(config.model_copy(update={"drift": 0.0}))
    still.next_day()
    first = still.interest_ML
    still.next_day()
    np.testing.assert_allclose(still.interest_ML, first)


def test_the_members_bias_changes_nothing_else() -> None:
    """The default is the strength that was planted before it could be chosen; 0 takes it away."""
    plain, biased = (World(SMALL.model_copy(update={"member_bias": bias})) for bias in (0.0, 0.8))
    default = World(SMALL)
    assert not plain.bias_M.any()
    np.testing.assert_allclose(biased.bias_M, 2 * default.bias_M)
    assert abs(World(DEFAULT).bias_M.std() - 0.4) < 0.03
    for name in ("interest_ML", "profile_ML", "activity_M", "favourites_MF", "industry_M"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(default, name))
        np.testing.assert_array_equal(getattr(biased, name), getattr(default, name))


def test_posts_are_numbered_in_the_order_they_are_made() -> None:
    """Those of the days before the first are the stock that it begins with."""
    world = World(SMALL)
    days = [*world.stock, *(world.next_day() for _ in range(3))]
    assert len(days) == SMALL.post_life_days + 3
    posts = Posts.join(days)
    np.testing.assert_array_equal(posts.post_id, np.arange(1, len(days) * 60 + 1))
    assert (np.diff(posts.created_ms) >= 0).all()
    start = world.start_ms - SMALL.post_life_days * DAY_MS
    np.testing.assert_array_equal(
        (posts.created_ms - start) // DAY_MS, np.arange(len(days) * 60) // 60
    )
    assert [part.post_id[0] for part in world.stock] == [part.post_id[0] for part in days[-4:]]
    own = posts.root_actor == posts.actor
    assert 0.1 < 1 - own.mean() < 0.3
    np.testing.assert_allclose(np.linalg.norm(posts.latent_PL, axis=1), 1)


def test_a_day_is_the_same_whatever_was_drawn_before_it() -> None:
    worlds = [World(SMALL), World(SMALL)]
    contents = []
    for world in worlds:
        made = [world.next_day() for _ in range(2)][-1]
        contents.append(world.content(made))
        assert contents[-1].shape == (60, 50)
        assert contents[-1].dtype == np.float32
    np.testing.assert_array_equal(contents[0], contents[1])
    other = World(SMALL.model_copy(update={"seed": 1}))
    assert not np.array_equal(other.interest_ML, worlds[0].first_interest_ML)


def test_favourites_are_actors_of_a_liked_topic() -> None:
    world = World(SMALL)
    assert world.favourites_MF.shape == (SMALL.members, SMALL.favourites)
    assert (world.favourites_MF >= 0).all()
    topics = world.actor_topic[world.favourites_MF]
    assert max(len(set(row)) for row in topics.tolist()) <= 2


@settings(deadline=None)
@given(st.integers(0, 99), st.integers(1, 30))
def test_a_unit_vector_has_length_one_and_its_direction(seed: int, rows: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(rows, LATENT))
    units = unit(vectors)
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1)
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose((units * vectors).sum(1), lengths)


def test_segment_sampler_draws_by_weight_within_the_group() -> None:
    group, weight = np.array([2, 0, 2, 0, 2]), np.array([1.0, 1.0, 3.0, 0.0, 4.0])
    sampler = SegmentSampler(group, weight, 3)
    uniform = (np.arange(8000) + 0.5) / 8000
    drawn = sampler.draw(np.full(8000, 2), uniform)
    np.testing.assert_array_equal(np.bincount(drawn, minlength=5), [1000, 0, 3000, 0, 4000])
    assert (sampler.draw(np.zeros(100, np.int64), uniform[::80]) == 1).all()
    assert (sampler.draw(np.ones(10, np.int64), uniform[:10]) == -1).all()


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), max_size=12),
    st.lists(st.floats(0, 1, exclude_max=True), max_size=8),
)
def test_a_draw_is_of_its_group_or_none(items: list[tuple[int, int]], uniform: list[float]) -> None:
    group, weight = np.array(items, np.int64).reshape(-1, 2).T
    sampler = SegmentSampler(group, weight.astype(np.float64), 4)
    for asked in range(4):
        drawn = sampler.draw(np.full(len(uniform), asked), np.array(uniform))
        if asked in group:
            assert (group[drawn] == asked).all()
        else:
            assert (drawn == -1).all()
