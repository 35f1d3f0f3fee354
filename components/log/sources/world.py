# SPDX-License-Identifier: Apache-2.0
"""Who is in a simulated feed: members whose interests drift on a sphere, actors, and their posts.

Interests, actors and posts are unit vectors in one latent space (`LATENT` dimensions); a post's
content embedding is its latent vector seen through a fixed map, so what a member likes can be
inferred from what they did. This module knows nothing of requests, actions or files.

Shape suffixes: M members, A actors, P posts, L latent dimensions.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from components.log.sources.simulator_config import SimulatorConfig
from feature_repo.spec import DAY_MS

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
LATENT = 16
MEDIA = 6
INDUSTRIES = 20


@dataclass(frozen=True, kw_only=True)
class Posts:
    """Posts in the order they were made; ids are 1 + the place in that order."""

    post_id: Ints
    actor: Ints
    root_actor: Ints
    topic: Ints
    created_ms: Ints
    media: Ints
    length_s: Floats
    quality: Floats
    latent_PL: Floats

    @staticmethod
    def join(parts: Sequence[Posts]) -> Posts:
        """The posts of several days as one."""
        names = Posts.__dataclass_fields__
        return Posts(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in names})


class SegmentSampler:
    """Draws items by weight from within a group; the groups are segments of one cumulative sum."""

    def __init__(self, group: Ints, weight: Floats, groups: int) -> None:
        self.order = np.argsort(group, kind="stable")
        self.cumulative = np.concatenate([[0.0], np.cumsum(weight[self.order], dtype=np.float64)])
        self.bounds = np.searchsorted(group[self.order], np.arange(groups + 1))

    def draw(self, group: Ints, uniform: Floats) -> Ints:
        """An item of each group, -1 where the group is empty; `uniform` is in [0, 1)."""
        first, end = self.bounds[group], self.bounds[group + 1]
        low, high = self.cumulative[first], self.cumulative[end]
        at = np.searchsorted(self.cumulative, low + uniform * (high - low), side="right") - 1
        item = np.append(self.order, -1)[np.clip(at, first, np.maximum(end - 1, first))]
        return np.asarray(np.where(end > first, item, -1), np.int64)


class World:
    """Members, actors and a stream of posts; `next_day` moves the interests and makes new posts."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        rng = np.random.default_rng([config.seed, 0])
        self.topics_KL = np.linalg.qr(rng.normal(size=(LATENT, LATENT)))[0][: config.topics]
        self.content_map = np.linalg.qr(rng.normal(size=(50, LATENT)))[0].T
        self.profile_map = np.linalg.qr(rng.normal(size=(LATENT, LATENT)))[0]
        self._make_actors(rng)
        self._make_members(rng)
        epoch = datetime.date(1970, 1, 1)
        self.start_ms = (config.start - epoch).days * DAY_MS
        self.posts_made = 0
        self.stock = [self._make_posts(d, self._rng(d)) for d in range(-config.post_life_days, 0)]
        self.day = -1

    def _rng(self, day: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, 1, day + 1000])

    def _make_actors(self, rng: np.random.Generator) -> None:
        c = self.config
        self.actor_topic = rng.permutation(np.arange(c.actors) % c.topics)
        home = self.topics_KL[self.actor_topic]
        self.actors_AL = unit(home + 0.4 * unit(rng.normal(size=home.shape)))
        self.actor_output = (1.0 + np.arange(c.actors)) ** -0.5

    def _make_members(self, rng: np.random.Generator) -> None:
        c, count = self.config, self.config.members
        self.joined_day = np.where(
            rng.random(count) < c.late_join_share, rng.integers(0, c.days, count), 0
        )
        first, second = rng.integers(0, c.topics, (2, count))
        mix = self.topics_KL[first] + 0.7 * self.topics_KL[second]
        self.interest_ML = unit(mix + 0.4 * unit(rng.normal(size=mix.shape)))
        self.activity_M = rng.lognormal(0.0, c.activity_sigma, count)
        self.bias_M = rng.normal(0.0, c.member_bias, count)
        self.first_interest_ML = self.interest_ML.copy()
        noise = c.profile_noise * unit(rng.normal(size=mix.shape))
        self.profile_ML = unit(self.interest_ML @ self.profile_map + noise)
        known = rng.random(count) < c.industry_share
        self.industry_M = np.where(known, first + 3, rng.integers(0, INDUSTRIES, count))
        self.industry_M %= INDUSTRIES
        self.connections_M = np.floor(rng.lognormal(4.0, 1.0, count))
        by_topic = SegmentSampler(self.actor_topic, self.actor_output, c.topics)
        liked = np.where(rng.random((count, c.favourites)) < 0.6, first[:, None], second[:, None])
        self.favourites_MF = by_topic.draw(liked, rng.random(liked.shape))

    def _make_posts(self, day: int, rng: np.random.Generator) -> Posts:
        c, count = self.config, self.config.posts_per_day
        share = self.actor_output / self.actor_output.sum()
        actor = rng.choice(c.actors, count, p=share)
        reshared = rng.random(count) < c.reshare_share
        root = np.where(reshared, rng.choice(c.actors, count, p=share), actor)
        latent = unit(self.actors_AL[root] + 0.5 * unit(rng.normal(size=(count, LATENT))))
        first = self.posts_made + 1
        self.posts_made += count
        return Posts(
            post_id=np.arange(first, first + count),
            actor=actor,
            root_actor=root,
            topic=np.argmax(latent @ self.topics_KL.T, axis=1),
            created_ms=self.start_ms + day * DAY_MS + np.sort(rng.integers(0, DAY_MS, count)),
            media=rng.integers(0, MEDIA, count),
            length_s=rng.lognormal(3.2, 0.8, count),
            quality=rng.normal(0.0, c.quality, count),
            latent_PL=latent,
        )

    def next_day(self) -> Posts:
        """Moves to the next day and returns the posts made on it; `stock` holds the live ones."""
        self.day += 1
        rng = self._rng(self.day)
        if self.day > 0:
            step = unit(rng.normal(size=self.interest_ML.shape))
            self.interest_ML = unit(self.interest_ML + self.config.drift * step)
        made = self._make_posts(self.day, rng)
        self.stock = [*self.stock[-self.config.post_life_days :], made]
        return made

    def content(self, posts: Posts) -> Floats:
        """Content embeddings `[P, 50]`, float32: the latent vectors through a fixed map, noisy."""
        rng = np.random.default_rng([self.config.seed, 2, *posts.post_id[:1].tolist()])
        noise = rng.normal(0.0, 0.03, (len(posts.post_id), 50))
        return np.asarray(posts.latent_PL @ self.content_map + noise, np.float32)


def unit(vectors: Floats) -> Floats:
    """The vectors scaled to length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))
