# SPDX-License-Identifier: Apache-2.0
"""The visits, requests and impressions of a simulated day, and what members do with them.

A member visits by their own activity; each visit has one mood and a few requests; each request
shows posts from the topics the member likes, from favourite actors, and from everything new, in
random order, so that position bias is not confounded with relevance, or ranked. This module knows
nothing of files.

Shape suffixes: M members, V visits, Q requests, S drawn slots of a request, N impressions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from components.log.sources.feedback import act, examination, probabilities
from components.log.sources.simulator_config import SimulatorConfig
from components.log.sources.world import Floats, Ints, Posts, SegmentSampler, World
from feature_repo.spec import DAY_MS

Columns = dict[str, npt.NDArray[Any]]
CHUNK_REQUESTS = 16_384
"""Requests drawn at once: bounds the memory of the wide arrays, and is part of the seed."""
HOUR_WEIGHTS = np.array(
    [2, 1, 1, 1, 1, 2, 4, 7, 9, 8, 7, 7, 9, 8, 7, 6, 6, 7, 9, 11, 12, 11, 8, 4], np.float64
)
SURFACE_WEIGHTS = np.array([0.55, 0.25, 0.15, 0.05])
SURFACE_LOGIT = np.array([0.0, 0.25, -0.35, 0.1])
MEDIA_LOGIT = np.array([0.0, 0.3, -0.2, 0.15, -0.3, 0.05])
TOPIC_SHARPNESS = 4.0
SPARE_SLOTS = 6
REQUESTS_A_VISIT = 1.8
GAP_MS = (20_000, 240_000)
DELAY_MS = (2_000, 120_000)


class Feed:
    """Draws one day after another; the world moves on by `world.next_day()`."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.config, self.world = config, World(config)
        self.depths = ((config.request_size + 1) // 2, config.request_size)
        self.requests_made = self.visits_made = 0
        active_days = config.days - self.world.joined_day
        scale = config.impressions / float(self.world.activity_M @ active_days)
        a_visit = REQUESTS_A_VISIT * sum(self.depths) / 2
        self.visit_rate_M = self.world.activity_M * scale / a_visit

    def chunks(self, day: int) -> Iterator[Columns]:
        """The impressions `[N]` of a day, some requests at a time, with their truth."""
        rng = np.random.default_rng([self.config.seed, 3, day])
        requests = self._requests(rng, self._visits(rng, day))
        live = Posts.join(self.world.stock)
        samplers = self._samplers(live, day)
        for first in range(0, len(requests["member"]), CHUNK_REQUESTS):
            part = {n: v[first : first + CHUNK_REQUESTS] for n, v in requests.items()}
            slots_QS = self._draw(rng, part["member"], samplers)
            request, position, post = self._show(slots_QS, part, live)
            if self.config.ranked:
                post = self._ranked(rng, part, live, request, post)
            yield self._impressions(rng, part, live, request, position, post)

    def _visits(self, rng: np.random.Generator, day: int) -> Columns:
        rate_M = np.where(self.world.joined_day <= day, self.visit_rate_M, 0.0)
        visits_M = rng.poisson(rate_M)
        member = np.repeat(np.arange(len(visits_M)), visits_M)
        hour = rng.choice(24, len(member), p=HOUR_WEIGHTS / HOUR_WEIGHTS.sum())
        day_ms = self.world.start_ms + day * DAY_MS
        start = day_ms + hour * 3_600_000 + rng.integers(0, 3_600_000, len(member))
        order = np.argsort(start, kind="stable")
        first = self.visits_made + 1
        self.visits_made += len(member)
        return {
            "member": member[order],
            "start": start[order],
            "mood": rng.normal(0.0, self.config.mood, len(member)),
            "surface": rng.choice(len(SURFACE_WEIGHTS), len(member), p=SURFACE_WEIGHTS),
            "visit": np.arange(first, first + len(member)),
            "requests": 1 + rng.poisson(REQUESTS_A_VISIT - 1, len(member)),
        }

    def _requests(self, rng: np.random.Generator, visits: Columns) -> Columns:
        size_V = visits["requests"]
        visit_Q = np.repeat(np.arange(len(size_V)), size_V)
        count = len(visit_Q)
        passed = np.cumsum(rng.integers(*GAP_MS, count))
        first_Q = np.repeat(np.cumsum(size_V) - size_V, size_V)
        late = rng.random(count) < self.config.late_share
        delay = rng.integers(*DELAY_MS, count)
        first = self.requests_made + 1
        self.requests_made += count
        return {
            **{name: visits[name][visit_Q] for name in ("member", "mood", "surface", "visit")},
            "time": visits["start"][visit_Q] + passed - passed[first_Q],
            "depth": rng.integers(self.depths[0], self.depths[1] + 1, count),
            "delay": delay + np.where(late, rng.integers(DAY_MS, 2 * DAY_MS, count), 0),
            "late": late,
            "request": np.arange(first, first + count),
        }

    def _samplers(self, live: Posts, day: int) -> tuple[SegmentSampler, ...]:
        """By topic, by actor and over all live posts; newer and better posts are shown more."""
        noon = self.world.start_ms + day * DAY_MS + DAY_MS // 2
        age_hours = np.maximum(noon - live.created_ms, 0) / 3_600_000
        weight = np.exp2(-age_hours / self.config.half_life_hours) * np.exp(live.quality)
        return (
            SegmentSampler(live.topic, weight, self.config.topics),
            SegmentSampler(live.actor, weight, self.config.actors),
            SegmentSampler(np.zeros(len(weight), np.int64), weight, 1),
        )

    def _draw(
        self, rng: np.random.Generator, member: Ints, samplers: tuple[SegmentSampler, ...]
    ) -> Ints:
        """Live posts `[Q, S]`: half from liked topics, some from favourites, else from all."""
        world, shape = self.world, (len(member), self.config.request_size + SPARE_SLOTS)
        liking = np.exp(TOPIC_SHARPNESS * world.interest_ML[member] @ world.topics_KL.T)
        share = np.cumsum(liking / liking.sum(1, keepdims=True), axis=1)[:, :-1]
        topic = (rng.random(shape)[:, :, None] > share[:, None, :]).sum(2)
        favourite = world.favourites_MF[
            member[:, None], rng.integers(0, self.config.favourites, shape)
        ]
        by_topic, by_actor, everything = samplers
        way, uniform = rng.random(shape), rng.random(shape)
        post = np.where(way < 0.5, by_topic.draw(topic, uniform), by_actor.draw(favourite, uniform))
        other = (way > 0.65) | (post < 0)
        return np.where(other, everything.draw(np.zeros(shape, np.int64), uniform), post)

    def _show(self, slots_QS: Ints, part: Columns, live: Posts) -> tuple[Ints, Ints, Ints]:
        """The first `depth` slots that exist by now, none twice: request, position, post."""
        order = np.argsort(slots_QS, axis=1, kind="stable")
        ranked = np.take_along_axis(slots_QS, order, axis=1)
        repeats = np.zeros_like(ranked, dtype=bool)
        repeats[:, 1:] = ranked[:, 1:] == ranked[:, :-1]
        repeated = np.empty_like(repeats)
        np.put_along_axis(repeated, order, repeats, axis=1)
        fits = ~repeated & (live.created_ms[slots_QS] < part["time"][:, None])
        place = np.cumsum(fits, axis=1) - 1
        request, slot = np.nonzero(fits & (place < part["depth"][:, None]))
        return request, place[request, slot], slots_QS[request, slot]

    def _ranked(
        self, rng: np.random.Generator, part: Columns, live: Posts, request: Ints, post: Ints
    ) -> Ints:
        """The posts `[N]` of each request in the order in which a noisy ranker shows them.

        The largest of `logit + Gumbel noise` first is a draw without replacement (Plackett-Luce).
        """
        relevance = self.relevance(part["member"][request], post, live, part["time"][request])
        key = self.config.ranked * relevance + rng.gumbel(size=len(post))
        return post[np.lexsort((-key, request))]

    def relevance(self, member: Ints, post: Ints, live: Posts, time_ms: Ints) -> Floats:
        """The logit `[N]` by which a member likes a live post, without mood and surface."""
        c, world = self.config, self.world
        liking = np.einsum("nl,nl->n", world.interest_ML[member], live.latent_PL[post])
        actor, root = live.actor[post], live.root_actor[post]
        favourites_NF = world.favourites_MF[member]
        favourite = (favourites_NF == actor[:, None]).any(1)
        reshared = (favourites_NF == root[:, None]).any(1) & (actor != root)
        age_hours = (time_ms - live.created_ms[post]) / 3_600_000
        return np.asarray(
            c.interest_gain * liking
            + c.favourite_gain * (favourite + 0.5 * reshared)
            + c.freshness_gain * np.exp2(-age_hours / c.half_life_hours)
            + live.quality[post]
            + MEDIA_LOGIT[live.media[post]]
            + world.bias_M[member]
        )

    def _impressions(
        self,
        rng: np.random.Generator,
        part: Columns,
        live: Posts,
        request: Ints,
        position: Ints,
        post: Ints,
    ) -> Columns:
        member, time = part["member"][request], part["time"][request]
        surface, mood = part["surface"][request], part["mood"][request]
        relevance = self.relevance(member, post, live, time) + SURFACE_LOGIT[surface]
        examined = examination(position, self.config)
        return {
            "member_id": member + 1,
            "post_id": live.post_id[post],
            "event_time": time,
            "arrival_time": time + part["delay"][request],
            "request_id": part["request"][request],
            "position": position.astype(np.int16),
            "surface": surface.astype(np.int32),
            "hour": (time // 3_600_000 % 24).astype(np.int32),
            "late": part["late"][request],
            **act(rng, relevance + mood, examined),
            "visit_id": part["visit"][request],
            **truth(relevance, mood, examined),
        }


def truth(relevance: Floats, mood: Floats, examined: Floats) -> Columns:
    """What is behind the actions `[N]`, by column: probabilities with the visit's mood and without.

    `p_` and an action's name is its probability, `b_` what can be known of it before the visit.
    """
    known = probabilities(relevance + mood, examined)
    before = probabilities(relevance, examined)
    return {
        "mood": mood,
        "examination": examined,
        **{f"p_{name}": probability for name, probability in known.items()},
        **{f"b_{name}": probability for name, probability in before.items()},
    }
