# SPDX-License-Identifier: Apache-2.0
"""The configuration of the simulator: how large the feed is, and what drives its members.

This module knows nothing of how a feed is drawn.
"""

from __future__ import annotations

import datetime

from pydantic import BaseModel, ConfigDict, Field, model_validator


class SimulatorConfig(BaseModel):
    """One simulated feed; the same value gives the same bytes.

    Attributes:
        impressions: about how many impressions all members see over all days.
        activity_sigma: spread of the log of a member's activity; 1.1 puts the most active member
            of 600 some fifteen times above the mean.
        late_join_share: members that join after the first day.
        post_life_days: a post is shown for so many days after the one it was made on.
        request_size: the largest number of posts shown in one request.
        position_exponent: a post at position p is examined with probability `(1 + p) ** -exponent`.
        ranked: how strongly the feed that made the log ranked by true relevance: 0 shows a request
            in random order; above it, posts are drawn without replacement with probability
            proportional to `exp(ranked * logit)` (Plackett-Luce), so that position bias is
            confounded with relevance as in a real log.
        drift: the angle, in radians, by which an interest moves in a day.
        profile_noise: length of the random vector added to a member's first interest, a unit
            vector, to make the profile embedding; 2 leaves a cosine of about 0.45.
        industry_share: members whose industry follows from their interest; the others' is random.
        member_bias: standard deviation of the logit that all impressions of a member share.
        mood: standard deviation of the logit that all impressions of a visit share.
        freshness_gain: logit a new post has over an old one; halves every `half_life_hours`.
        late_share: requests whose log arrives one to two days after they were served.
        duplicate_share: impressions that are logged a second time, half of them on a later day.
        bad_share: rows of nonsense added to the log.
        truth: also write `truth/`, the probabilities behind every action; no step reads it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0)
    start: datetime.date = datetime.date(2026, 1, 5)
    days: int = Field(9, ge=1)
    members: int = Field(600, ge=1)
    actors: int = Field(600, ge=2)
    posts_per_day: int = Field(300, ge=1)
    impressions: int = Field(70_000, ge=1)
    activity_sigma: float = Field(1.1, ge=0, le=3)
    late_join_share: float = Field(0.15, ge=0, le=1)
    post_life_days: int = Field(3, ge=1)
    request_size: int = Field(10, ge=1)
    topics: int = Field(12, ge=2, le=16)
    favourites: int = Field(8, ge=1)
    reshare_share: float = Field(0.2, ge=0, le=1)
    interest_gain: float = 4.0
    favourite_gain: float = 1.5
    freshness_gain: float = 1.0
    half_life_hours: float = Field(18.0, gt=0)
    quality: float = Field(0.5, ge=0)
    member_bias: float = Field(0.4, ge=0)
    mood: float = Field(0.7, ge=0)
    drift: float = Field(0.12, ge=0)
    profile_noise: float = Field(2.0, ge=0)
    industry_share: float = Field(0.4, ge=0, le=1)
    position_exponent: float = Field(0.25, ge=0)
    ranked: float = Field(0.0, ge=0)
    late_share: float = Field(0.02, ge=0, le=1)
    duplicate_share: float = Field(0.01, ge=0, le=1)
    bad_share: float = Field(0.002, ge=0, le=1)
    truth: bool = True

    @model_validator(mode="after")
    def _enough_actors(self) -> SimulatorConfig:
        if self.actors < self.topics:
            raise ValueError(f"actors is {self.actors}, want at least topics = {self.topics}")
        return self
