# SPDX-License-Identifier: Apache-2.0
"""The cache keeps its two promises: never older than stated, never more than stated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.specs import SIMULATOR as SPEC
from serving.assemble import context_matrix
from serving.history import decode_history
from serving.transformer.features import Fetcher
from serving.transformer.feed_request import FeedRequest
from serving.transformer.store_client import Cache, CacheConfig, StoreClient, Stored
from serving.transformer.utility import weights_of
from tests.serving_builders import SmallRun


@given(
    st.floats(0.1, 10),
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 7), st.booleans(), st.floats(0, 3)), max_size=60),
)
def test_never_older_and_never_more_than_stated(
    seconds: float, entries: int, steps: list[tuple[int, bool, float]]
) -> None:
    cache = Cache(CacheConfig(seconds=seconds, entries=entries))
    now, written = 0.0, {}
    for key, put, pause in steps:
        now += pause
        if put:
            cache.put("view", (key,), Stored(str(now).encode(), 0), now)
            written[key] = now
        kept = cache.get("view", (key,), now)
        if kept is not None:
            assert kept.value == str(written[key]).encode()
            assert now - written[key] < seconds
        assert len(cache) <= entries


def test_the_least_recently_used_goes_first() -> None:
    cache = Cache(CacheConfig(seconds=9, entries=2))
    for key in (1, 2):
        cache.put("view", (key,), Stored(b"x", 0), 0)
    assert cache.get("view", (1,), 0)
    cache.put("view", (3,), Stored(b"x", 0), 0)
    assert cache.get("view", (2,), 0) is None
    assert cache.get("view", (1,), 0)


def test_zero_seconds_is_no_cache() -> None:
    cache = Cache(CacheConfig(seconds=0))
    cache.put("view", (1,), Stored(b"x", 0), 0)
    assert len(cache) == 0


@pytest.fixture(scope="module")
def store(small_run: SmallRun) -> StoreClient:
    return StoreClient(small_run.layout.feast, SPEC)


def test_values_are_read_with_their_time_and_absence(
    store: StoreClient, small_run: SmallRun
) -> None:
    known, unknown = store.read("history", [(small_run.members[0],), (10**12,)])
    assert decode_history(known.value, SPEC).member_id == small_run.members[0]
    assert 0 < known.time_ms <= small_run.end_ms
    assert unknown.value is None
    assert store.as_of_ms("history") == small_run.end_ms


def test_cached_reads_are_the_reads(store: StoreClient, small_run: SmallRun) -> None:
    keys = [(post,) for post in small_run.posts[:30]]
    plain = store.read("post_popularity", keys)
    assert store.read_cached("post_popularity", keys) == plain
    assert store.read_cached("post_popularity", keys[::-1]) == plain[::-1]


def test_features_are_those_of_the_views(store: StoreClient, small_run: SmallRun) -> None:
    """The fetcher's context is what `assemble` makes of the stored records, in the order sent."""
    asked = FeedRequest(
        member_id=small_run.members[0],
        post_ids=np.array([small_run.posts[4], 10**12, small_run.posts[4]]),
        request={"surface": 2},
        time_ms=small_run.end_ms,
        weights_K=weights_of(SPEC, {}),
    )
    fetched = Fetcher(SPEC, store).fetch(asked)
    view = SPEC.view("post_popularity")
    values = [s.value for s in store.read(view.name, [(p,) for p in asked.post_ids.tolist()])]
    posts, _ = SPEC.content.unpack(
        [s.value for s in store.read("post_content", [(p,) for p in asked.post_ids.tolist()])]
    )
    want = context_matrix(SPEC, {view.name: view.unpack(values)[0]}, posts, asked.time_ms)
    for feature in view.features:
        columns = SPEC.context_slices[feature.name]
        np.testing.assert_array_equal(fetched.context_NC[:, columns], want[:, columns])
    assert fetched.features["surface"].tolist() == [2, 2, 2]
    assert fetched.post_flags[0] == fetched.post_flags[2]
    assert "unknown_post" in fetched.post_flags[1]
    assert set(fetched.as_of_ms.values()) == {small_run.end_ms}
