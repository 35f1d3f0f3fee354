# SPDX-License-Identifier: Apache-2.0
"""The two specs that ship: KuaiRand's and the simulator's. Adding a feature is one line here."""

from __future__ import annotations

from collections.abc import Iterable

from feature_repo.kinds import (
    Binary,
    Categorical,
    Counter,
    Embedding,
    Feature,
    HashedId,
    Kind,
    Numeric,
    Task,
    View,
)
from feature_repo.spec import Spec

LOG1P = Numeric(transform="log1p")
RATE = Numeric()
WINDOWS = (7, 30, 90, 365)
"""Days in which affinity is counted."""


def sequence(name: str, kind: Kind, source: str = "post") -> Feature:
    """A feature of the impression that enters the transformer."""
    return Feature(name=name, role="sequence", kind=kind, source=source)


def action(name: str) -> Feature:
    """A binary action; an action that is also a `Task` is predicted."""
    return Feature(name=name, role="action", kind=Binary(), source="action")


def profile(name: str, kind: Kind) -> Feature:
    """A static column of the members table, fused late."""
    return Feature(name=name, role="context", kind=kind, source="member_profile")


def count(
    view: str,
    name: str,
    of: str,
    *,
    days: int | None = None,
    dwell_ms: tuple[int, int] | None = None,
) -> Feature:
    """How often `of` happened."""
    counter = Counter(of=of, days=days, dwell_ms=dwell_ms)
    return Feature(name=name, role="context", kind=LOG1P, source=view, counter=counter)


def rate(
    view: str,
    name: str,
    of: str,
    *,
    days: int | None = None,
    last: int | None = None,
    dwell_ms: tuple[int, int] | None = None,
) -> Feature:
    """The smoothed share of impressions in which `of` happened."""
    counter = Counter(of=of, rate=True, days=days, last=last, dwell_ms=dwell_ms)
    return Feature(name=name, role="context", kind=RATE, source=view, counter=counter)


def affinity(days: Iterable[int]) -> tuple[Feature, ...]:
    """How often a member saw an actor, and what came of it, in windows of so many days."""
    features: list[Feature] = []
    for d in days:
        features.append(count("affinity", f"affinity_impressions_{d}d", "impression", days=d))
        features.append(rate("affinity", f"affinity_long_dwell_{d}d", "long_dwell", days=d))
    features.append(count("affinity", "affinity_likes_365d", "like", days=365))
    return tuple(features)


def popularity(view: str, prefix: str) -> tuple[Feature, ...]:
    """Clicks, likes, impressions and dwell buckets of a post or an actor."""
    return (
        count(view, f"{prefix}_impressions", "impression"),
        rate(view, f"{prefix}_click_rate", "click"),
        rate(view, f"{prefix}_long_dwell_rate", "long_dwell"),
        rate(view, f"{prefix}_like_rate", "like"),
        rate(view, f"{prefix}_dwell_under_3s", "dwell", dwell_ms=(0, 3_000)),
        rate(view, f"{prefix}_dwell_3_to_10s", "dwell", dwell_ms=(3_000, 10_000)),
        rate(view, f"{prefix}_dwell_over_30s", "dwell", dwell_ms=(30_000, 2**31 - 1)),
    )


ACTIVITY = (
    count("member_activity", "member_impressions", "impression"),
    rate("member_activity", "member_click_rate", "click"),
    rate("member_activity", "member_long_dwell_rate", "long_dwell"),
    rate("member_activity", "member_like_rate", "like"),
    rate("member_activity", "member_long_dwell_last5", "long_dwell", last=5),
    rate("member_activity", "member_long_dwell_last20", "long_dwell", last=20),
    rate("member_activity", "member_click_last20", "click", last=20),
    rate("member_activity", "member_dwell_over_30s", "dwell", dwell_ms=(30_000, 2**31 - 1)),
)

ACTIONS = (
    *(action(n) for n in ("click", "skip", "long_dwell", "like", "comment", "share")),
    Feature(name="dwell_ms", role="action", kind=LOG1P, source="action"),
)
POST_AGE = Feature(name="post_age_hours", role="context", kind=LOG1P, source="age")


def tasks(**priors: float) -> tuple[Task, ...]:
    """The six tasks in logit order with the log's base rates as priors."""
    utility = {
        "click": 1.0,
        "skip": -0.5,
        "long_dwell": 2.0,
        "like": 5.0,
        "comment": 10.0,
        "share": 10.0,
    }
    passive = ("click", "skip", "long_dwell")
    return tuple(
        Task(
            name=n,
            group="passive" if n in passive else "active",
            prior=priors[n],
            utility=u,
            examined=n != "skip",
        )
        for n, u in utility.items()
    )


def make_spec(
    name: str,
    *,
    post_features: tuple[Feature, ...],
    request_features: tuple[Feature, ...],
    profile_features: tuple[Feature, ...],
    task_list: tuple[Task, ...],
    utc_offset_hours: int,
) -> Spec:
    """A spec with the standard views around the given log's own columns."""
    views = standard_views(post_features[1:], profile_features)
    counted = [feature for view in views if view.kind == "counters" for feature in view.features]
    return Spec(
        name=name,
        features=(
            *post_features,
            *request_features,
            *ACTIONS,
            *counted,
            *profile_features,
            POST_AGE,
        ),
        views=views,
        tasks=task_list,
        utc_offset_hours=utc_offset_hours,
    )


def standard_views(
    content: tuple[Feature, ...], profile_features: tuple[Feature, ...]
) -> tuple[View, ...]:
    """What is kept of a post, an actor, a member, and a member with an actor."""
    post, actor, member = ("post_id",), ("actor_id",), ("member_id",)
    pair = (*member, *actor)
    return (
        View(name="post_content", keys=post, kind="content", features=content),
        counters("post_popularity", post, popularity("post_popularity", "post")),
        counters("actor_popularity", actor, popularity("actor_popularity", "actor")),
        counters("member_activity", member, ACTIVITY),
        counters("affinity", pair, affinity(WINDOWS)),
        View(name="member_profile", keys=member, kind="profile", features=profile_features),
    )


def counters(name: str, keys: tuple[str, ...], features: tuple[Feature, ...]) -> View:
    """A view of counters."""
    return View(name=name, keys=keys, kind="counters", features=features)


KUAIRAND = make_spec(
    "kuairand",
    post_features=(
        sequence("post_id", HashedId(table="post", buckets=16_384, dim=16)),
        sequence("actor_id", HashedId(table="actor", buckets=16_384, dim=16)),
        sequence("tag", Categorical(cardinality=70, dim=8)),
        sequence("second_tag", Categorical(cardinality=70, dim=4)),
        sequence("upload_type", Categorical(cardinality=16, dim=4)),
        sequence("music_type", Categorical(cardinality=16, dim=4)),
        sequence("duration_s", LOG1P),
    ),
    request_features=(
        sequence("tab", Categorical(cardinality=16, dim=8), "request"),
        sequence("hour", Categorical(cardinality=24, dim=4), "request"),
    ),
    profile_features=(
        profile("active_degree", Categorical(cardinality=10)),
        profile("is_live_streamer", Categorical(cardinality=2, dim=2)),
        profile("is_video_author", Categorical(cardinality=2, dim=2)),
        profile("follows", LOG1P),
        profile("fans", LOG1P),
        profile("friends", LOG1P),
        profile("register_days", LOG1P),
    ),
    task_list=tasks(
        click=0.44, skip=0.42, long_dwell=0.31, like=0.017, comment=0.0025, share=0.0009
    ),
    utc_offset_hours=8,
)

SIMULATOR = make_spec(
    "simulator",
    post_features=(
        sequence("post_id", HashedId(table="post", buckets=65_536, dim=16)),
        sequence("actor_id", HashedId(table="actor", buckets=32_768, dim=16)),
        sequence("root_actor_id", HashedId(table="actor", buckets=32_768, dim=16)),
        sequence("media", Categorical(cardinality=6, dim=4)),
        sequence("length_s", LOG1P),
        sequence("content", Embedding(dim=50)),
    ),
    request_features=(
        sequence("surface", Categorical(cardinality=4, dim=4), "request"),
        sequence("hour", Categorical(cardinality=24, dim=4), "request"),
    ),
    profile_features=(
        profile("profile", Embedding(dim=16)),
        profile("industry", Categorical(cardinality=20)),
        profile("connections", LOG1P),
    ),
    task_list=tasks(click=0.2, skip=0.45, long_dwell=0.25, like=0.05, comment=0.01, share=0.01),
    utc_offset_hours=0,
)

SPECS = {spec.name: spec for spec in (KUAIRAND, SIMULATOR)}


def spec_by_name(name: str) -> Spec:
    """The shipped spec of that name; ValueError lists the names there are."""
    if name not in SPECS:
        raise ValueError(f"there is no spec {name!r}; have {', '.join(sorted(SPECS))}")
    return SPECS[name]
