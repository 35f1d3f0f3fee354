# SPDX-License-Identifier: Apache-2.0
"""What a request's features are made of, and what degrades: a store in memory, every corner."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from feature_repo.specs import SIMULATOR as SPEC
from serving.errors import Unavailable
from serving.transformer.features import Fetched, Fetcher
from serving.transformer.feed_request import FeedRequest
from serving.transformer.store_client import NOTHING, Key, Stored

NOW = 1_764_500_000_000
HOUR = 3_600_000
MEMBER, POSTS = 7, [30, 10, 20]
ACTORS = {30: 301, 10: 101, 20: 201}


class Shelf:
    """A store whose values are what the test put there, all as of one time."""

    def __init__(self, as_of_ms: int = NOW) -> None:
        self.values: dict[tuple[str, Key], Stored] = {}
        self.as_of: dict[str, int] = {}
        self.default_as_of = as_of_ms
        self.reads: list[tuple[str, list[Key]]] = []
        self.cached: list[str] = []
        self.refreshed = 0

    def refresh(self) -> None:
        """Before anything is read: what is read then is at least as new."""
        self.reads, self.cached = [], []
        self.refreshed += 1

    def as_of_ms(self, view: str) -> int:
        return self.as_of.get(view, self.default_as_of)

    def read(self, view: str, keys: Sequence[Key]) -> list[Stored]:
        assert self.refreshed
        self.reads.append((view, list(keys)))
        return [self.values.get((view, key), NOTHING) for key in keys]

    def read_cached(self, view: str, keys: Sequence[Key]) -> list[Stored]:
        self.cached.append(view)
        return self.read(view, keys)


def record(view: str, **values: Any) -> bytes:
    """A packed value of the view: ones, but for what is given."""
    packed = np.ones(1, SPEC.view(view).dtype)
    for name, value in values.items():
        packed[name] = value
    return packed.tobytes()


def full_shelf(**changes: dict[str, Any]) -> Shelf:
    """A value for every key of the request; `changes` are those of the second post, by view."""
    shelf = Shelf()

    def put(view: str, key: Key, changed: bool, **values: Any) -> None:
        values |= changes.get(view, {}) if changed else {}
        shelf.values[view, key] = Stored(record(view, **values), NOW - HOUR)

    for post, actor in ACTORS.items():
        of_second = post == 10
        put("post_content", (post,), of_second, actor_id=actor, created_ms=NOW - 5 * HOUR)
        put("post_popularity", (post,), of_second, post_impressions=post)
        put("actor_popularity", (actor,), of_second, actor_impressions=actor)
        put("affinity", (MEMBER, actor), of_second, affinity_impressions_7d=post + 1)
    put("member_activity", (MEMBER,), True)
    put("member_profile", (MEMBER,), True)
    shelf.values["history", (MEMBER,)] = Stored(b"history", NOW - HOUR)
    return shelf


def feed_request(posts: Sequence[int] = POSTS, **changes: Any) -> FeedRequest:
    plain: dict[str, Any] = {"member_id": MEMBER, "request": {"surface": 2}, "time_ms": NOW}
    return FeedRequest(
        post_ids=np.array(posts, np.int64), weights_K=np.ones(6), **{**plain, **changes}
    )


def fetch(shelf: Any, request: FeedRequest | None = None, **limits: Any) -> Fetched:
    return Fetcher(SPEC, shelf, **limits).fetch(request or feed_request())


def counted(view: str, reason: str) -> float:
    labels = {"view": view, "reason": reason}
    return REGISTRY.get_sample_value("feedsr_defaults_total", labels) or 0.0


def context(fetched: Fetched, name: str) -> list[list[float]]:
    return fetched.context_NC[:, SPEC.context_slices[name]].tolist()


def test_a_full_store_degrades_nothing() -> None:
    fetched = fetch(full_shelf())
    assert fetched.history == b"history"
    assert (fetched.flags, fetched.post_flags) == ([], [[], [], []])
    assert fetched.features["post_id"].tolist() == POSTS
    assert fetched.features["actor_id"].tolist() == [301, 101, 201]
    assert fetched.features["surface"].tolist() == [2, 2, 2]
    assert fetched.features["content"].tolist() == [[1.0] * 50] * 3
    assert context(fetched, "post_impressions") == [[30], [10], [20]]
    assert context(fetched, "actor_impressions") == [[301], [101], [201]]
    assert context(fetched, "affinity_impressions_7d") == [[31], [11], [21]]
    assert context(fetched, "industry") == [[1]] * 3
    assert context(fetched, "post_age_hours") == [[5]] * 3
    assert fetched.as_of_ms == dict.fromkeys([*(v.name for v in SPEC.views), "history"], NOW)


INF, NAN = np.inf, np.nan
OF_A_POST = [
    ("post_content", "media", [6, 7, 2**31 - 1, -2, -(2**31)], -1),
    ("post_content", "actor_id", [-2, -(2**63)], 0),
    ("post_content", "root_actor_id", [-2], 0),
    ("post_content", "length_s", [INF, -INF], NAN),
    ("post_content", "content", [NAN, INF, -INF, [0.0] * 49 + [NAN], [INF] + [1.0] * 49], 0),
    ("post_content", "created_ms", [0, -2, NOW // 1000, 946_684_799_999, 4_102_444_800_000], -1),
    ("post_popularity", "post_click_rate", [INF], NAN),
    ("actor_popularity", "actor_impressions", [-INF], NAN),
    ("affinity", "affinity_likes_365d", [INF], NAN),
]


@pytest.mark.parametrize(
    ("view", "name", "value", "default"),
    [(view, name, value, default) for view, name, bad, default in OF_A_POST for value in bad],
)
def test_a_stored_value_that_ingest_refuses_is_the_default_of_its_candidate(
    view: str, name: str, value: Any, default: float
) -> None:
    before, reads = counted(view, "invalid"), full_shelf(**{view: {name: value}})
    fetched, good = fetch(reads), fetch(full_shelf())
    want = fetch(full_shelf(**{view: {name: default}}))
    assert counted(view, "invalid") == before + 1
    assert fetched.flags == []
    if name != "actor_id":
        assert fetched.post_flags == [[], [f"invalid:{name}"], []]
        assert want.post_flags == [[], [], []]
    else:
        # The default actor has no counters of its own.
        missing = ["missing:actor_popularity"]
        assert fetched.post_flags == [[], ["invalid:actor_id", *missing], []]
        assert want.post_flags == [[], missing, []]
    for feature, column in fetched.features.items():
        np.testing.assert_array_equal(column, want.features[feature])
        np.testing.assert_array_equal(column[[0, 2]], good.features[feature][[0, 2]])
    np.testing.assert_array_equal(fetched.context_NC, want.context_NC)
    np.testing.assert_array_equal(fetched.context_NC[[0, 2]], good.context_NC[[0, 2]])


@pytest.mark.parametrize(
    ("view", "name", "value", "default"),
    [
        ("member_profile", "industry", 20, -1),
        ("member_profile", "industry", -2, -1),
        ("member_profile", "profile", [NAN] + [0.5] * 15, 0),
        ("member_profile", "connections", INF, NAN),
        ("member_activity", "member_impressions", INF, NAN),
    ],
)
def test_a_members_value_that_ingest_refuses_is_the_default_of_the_request(
    view: str, name: str, value: Any, default: float
) -> None:
    before = counted(view, "invalid")
    fetched = fetch(full_shelf(**{view: {name: value}}))
    assert counted(view, "invalid") == before + 1
    assert (fetched.flags, fetched.post_flags) == ([f"invalid:{name}"], [[], [], []])
    want = fetch(full_shelf(**{view: {name: default}}))
    assert want.flags == []
    np.testing.assert_array_equal(fetched.context_NC, want.context_NC)


@pytest.mark.parametrize(
    ("view", "name", "value"),
    [
        ("post_content", "media", 5),
        ("post_content", "media", 0),
        ("post_content", "media", -1),
        ("post_content", "actor_id", -1),
        ("post_content", "length_s", NAN),
        ("post_content", "length_s", -3e38),
        ("post_content", "content", 65_504.0),
        ("post_content", "content", 0.0),
        ("post_content", "created_ms", -1),
        ("post_content", "created_ms", 946_684_800_000),
        ("post_content", "created_ms", 4_102_444_799_999),
        ("post_popularity", "post_like_rate", NAN),
        ("member_profile", "industry", 19),
    ],
)
def test_a_value_that_ingest_keeps_is_kept(view: str, name: str, value: Any) -> None:
    fetched = fetch(full_shelf(**{view: {name: value}}))
    flags = [*fetched.flags, *(flag for flags in fetched.post_flags for flag in flags)]
    assert [flag for flag in flags if flag.startswith("invalid")] == []
    got = fetched.features.get(name)
    if got is not None:
        np.testing.assert_array_equal(got[1], np.full_like(got[1], value))


def test_an_invalid_value_of_the_request_is_flagged_and_counted() -> None:
    before = counted("request", "invalid")
    fetched = fetch(full_shelf(), feed_request(request={"surface": -1}, invalid=("surface",)))
    assert fetched.flags == ["invalid:surface"]
    assert fetched.features["surface"].tolist() == [-1, -1, -1]
    assert counted("request", "invalid") == before + 1
    fetch(full_shelf())
    assert counted("request", "invalid") == before + 1


def test_a_members_own_values_are_read_and_shared_ones_may_be_cached() -> None:
    shelf = full_shelf()
    fetch(shelf)
    assert shelf.refreshed == 1
    assert sorted(shelf.cached) == ["actor_popularity", "post_content", "post_popularity"]
    assert sorted({view for view, _ in shelf.reads} - set(shelf.cached)) == [
        "affinity",
        "history",
        "member_activity",
        "member_profile",
    ]


def test_several_invalid_values_are_each_flagged() -> None:
    shelf = full_shelf(post_content={"media": 9, "length_s": INF}, member_profile={"industry": 99})
    shelf.values["post_content", (20,)] = Stored(record("post_content", media=-7), NOW - HOUR)
    fetched = fetch(shelf, feed_request(invalid=("hour",)))
    assert fetched.flags == ["invalid:industry", "invalid:hour"]
    assert fetched.post_flags[0] == []
    assert fetched.post_flags[1] == ["invalid:media", "invalid:length_s"]
    assert "invalid:media" in fetched.post_flags[2]
    assert fetched.features["media"].tolist() == [1, -1, -1]


def test_an_empty_store_has_every_default() -> None:
    before = counted("post_content", "missing")
    fetched = fetch(Shelf(as_of_ms=0))
    assert fetched.history == b""
    assert fetched.flags == [
        "unknown_member",
        "missing:history",
        "missing:member_activity",
        "missing:member_profile",
    ]
    row = ["unknown_post", "missing:post_popularity", "missing:actor_popularity"]
    assert fetched.post_flags == [row] * 3
    assert counted("post_content", "missing") == before + 3
    assert fetched.features["actor_id"].tolist() == [0, 0, 0]
    assert fetched.features["media"].tolist() == [-1, -1, -1]
    assert not fetched.features["content"].any()
    assert np.isnan(fetched.context_NC[:, SPEC.context_slices["post_age_hours"]]).all()
    assert fetched.context_NC.shape == (3, SPEC.context_width)


def test_a_member_without_a_profile_is_known_by_a_history() -> None:
    shelf = full_shelf()
    del shelf.values["member_profile", (MEMBER,)]
    assert fetch(shelf).flags == ["missing:member_profile"]
    del shelf.values["history", (MEMBER,)]
    assert fetch(shelf).flags == ["unknown_member", "missing:history", "missing:member_profile"]
    shelf.values["member_profile", (MEMBER,)] = Stored(record("member_profile"), NOW)
    fetched = fetch(shelf)
    assert (fetched.history, fetched.flags) == (b"", ["missing:history"])


def test_no_candidates_have_no_features() -> None:
    for shelf in (full_shelf(), Shelf(as_of_ms=0)):
        fetched = fetch(shelf, feed_request(posts=[]))
        assert fetched.post_flags == []
        assert fetched.context_NC.shape == (0, SPEC.context_width)
        assert {len(column) for column in fetched.features.values()} == {0}
        assert fetched.features["content"].shape == (0, 50)
        assert fetched.features["media"].dtype == np.int32


def test_a_candidate_named_twice_is_read_once_and_is_the_same_row() -> None:
    shelf = full_shelf(post_content={"media": 99})
    before = counted("post_content", "invalid")
    fetched = fetch(shelf, feed_request(posts=[10, 30, 10]))
    assert fetched.post_flags == [["invalid:media"], [], ["invalid:media"]]
    assert counted("post_content", "invalid") == before + 2
    for column in (*fetched.features.values(), fetched.context_NC):
        assert column[0].tobytes() == column[2].tobytes()
    assert ("post_content", [(10,), (30,)]) in shelf.reads
    assert ("affinity", [(MEMBER, 101), (MEMBER, 301)]) in shelf.reads


AGE = 168 * HOUR


@pytest.mark.parametrize(
    ("value_ms", "as_of_ms", "reason"),
    [
        (NOW, NOW, ""),
        (NOW + 1, NOW, "ahead"),
        (NOW - AGE, 0, ""),
        (NOW - AGE - 1, 0, "stale"),
        (NOW - AGE - 1, NOW - AGE - 1, "stale"),
        (NOW - AGE - 1, NOW - AGE, ""),
        (1, NOW - AGE, ""),
        (0, 0, "stale"),
        (0, NOW, ""),
    ],
)
def test_a_value_is_as_young_as_its_own_time_or_its_views(
    value_ms: int, as_of_ms: int, reason: str
) -> None:
    shelf = full_shelf()
    for view, key in (("history", (MEMBER,)), ("post_popularity", (10,))):
        value = shelf.values[view, key].value
        shelf.values[view, key] = Stored(value, value_ms)
        shelf.as_of[view] = as_of_ms
    for post in (30, 20):
        kept = shelf.values["post_popularity", (post,)]
        shelf.values["post_popularity", (post,)] = Stored(kept.value, NOW)
    before = counted("history", reason)
    fetched = fetch(shelf)
    assert counted("history", reason) == before + bool(reason)
    assert fetched.flags == ([f"{reason}:history"] if reason else [])
    assert fetched.post_flags == [[], [f"{reason}:post_popularity"] if reason else [], []]
    assert fetched.history == (b"" if reason == "stale" else b"history")
    second = context(fetched, "post_impressions")[1][0]
    assert np.isnan(second) if reason == "stale" else second == 10
    assert fetched.as_of_ms["history"] == max(value_ms, as_of_ms)
    assert fetched.as_of_ms["post_popularity"] == as_of_ms


def test_the_age_of_a_value_is_in_hours() -> None:
    shelf = full_shelf()
    shelf.default_as_of = NOW - 2 * HOUR
    for place, kept in shelf.values.items():
        shelf.values[place] = dataclasses.replace(kept, time_ms=NOW - 2 * HOUR)
    assert fetch(shelf, max_age_hours=2.0).flags == []
    assert "stale:history" in fetch(shelf, max_age_hours=1.9997).flags


def test_a_value_of_another_size_is_the_stores_fault() -> None:
    shelf = full_shelf()
    shelf.values["affinity", (MEMBER, 101)] = Stored(b"short", NOW)
    with pytest.raises(Unavailable, match="affinity: a stored value has 5 bytes"):
        fetch(shelf)
