# SPDX-License-Identifier: Apache-2.0
"""The history cache: the same scores as without it, whatever is stale, evicted or shared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.spec import window_start
from feature_repo.specs import SIMULATOR as SPEC
from serving import metrics
from serving.history import History, decode_history
from serving.history_cache import HistoryCache
from serving.scorer import Scorer, ScorerConfig
from serving.wire import RankRequest
from tests.serving_builders import NOW_MS, history_value, noisy_ranker, rank_request

BOUND = 1e-6
"""Probabilities of one float32 model from two packings."""
LOG = 40


@cache
def log(seed: int) -> pa.RecordBatch:
    """All impressions of a member."""
    return decode_history(history_value(SPEC, LOG, seed), SPEC).batch


def history(seed: int, count: int, start: int = 0) -> History:
    return History(log(seed).slice(start, count - start), count, start, seed)


def request(history: History, candidates: int, seed: int) -> RankRequest:
    drawn = rank_request(SPEC, 0, candidates, seed)
    return dataclasses.replace(drawn, history=history, time_ms=NOW_MS + 2 * 86_400_000)


def scorer(cache_bytes: int) -> Scorer:
    return Scorer(noisy_ranker(SPEC), "day", ScorerConfig(history_cache_bytes=cache_bytes))


PLAIN = scorer(0)


def assert_same(scorer: Scorer, requests: Sequence[RankRequest]) -> None:
    got, want = scorer(list(requests)), PLAIN(list(requests))
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, atol=BOUND)


def reads(result: str) -> float:
    return metrics.HISTORY_CACHE_READS.labels(result)._value.get()


def memory(rows: int) -> torch.Tensor:
    return torch.full((2, 2, 2 * rows, 2, 8), float(rows))


@pytest.mark.law
@settings(max_examples=25, deadline=None)
@given(
    batches=st.lists(
        st.lists(
            st.tuples(st.integers(1, 3), st.integers(0, LOG), st.integers(1, 3)),
            min_size=1,
            max_size=4,
        ),
        min_size=1,
        max_size=5,
    ),
    room=st.sampled_from([30_000, 10**7]),
)
def test_law_5_scores_do_not_depend_on_what_the_cache_holds(
    batches: list[list[tuple[int, int, int]]], room: int
) -> None:
    """Members at any event count, forwards and backwards, in windows of 16 that slide by 4."""
    cached = scorer(room)
    for batch in batches:
        windows = [(m, n, int(window_start(n, 16, 4)), k) for m, n, k in batch]
        assert_same(cached, [request(history(m, n, start), k, m) for m, n, start, k in windows])
        assert cached.cache is not None
        assert cached.cache.nbytes <= room


def test_an_appended_impression_extends_the_entry_and_a_slid_window_builds_another() -> None:
    cached = scorer(10**7)
    before = {name: reads(name) for name in ("miss", "hit", "extended", "slid")}
    for count, start in ((10, 0), (10, 0), (11, 0), (7, 0), (11, 0), (20, 4), (20, 4)):
        assert_same(cached, [request(history(1, count, start), 2, 1)])
    counted = {name: reads(name) - value for name, value in before.items()}
    assert counted == {"miss": 1, "hit": 4, "extended": 1, "slid": 1}


def test_a_history_that_was_written_anew_is_stale() -> None:
    """The same member, window and count with one other action: found out in any column."""
    cached, whole = scorer(10**7), history(1, 12)
    assert_same(cached, [request(whole, 2, 1)])
    before = reads("stale")
    for name in ("click", "post_id", "dwell_ms", "timed"):
        changed = _with_another_value(whole.batch, name)
        assert_same(cached, [request(dataclasses.replace(whole, batch=changed), 2, 1)])
    assert reads("stale") - before == 4
    assert_same(cached, [request(whole, 2, 1)])


def _with_another_value(batch: pa.RecordBatch, name: str) -> pa.RecordBatch:
    place, column = batch.schema.get_field_index(name), batch.column(name)
    values = column.to_numpy(zero_copy_only=False).copy()
    values[3] = not values[3] if values.dtype == bool else np.nan_to_num(values[3]) + 1
    return batch.set_column(place, batch.schema.field(place), pa.array(values, column.type))


def test_the_least_recently_used_goes_first_and_bytes_are_bounded() -> None:
    one = memory(4).nbytes + history(1, 4).batch.get_total_buffer_size()
    kept = HistoryCache(2 * one)
    for member in (1, 2):
        kept.put(history(member, 4), memory(4))
    assert kept.get(history(1, 4)) is not None
    evictions = metrics.HISTORY_CACHE_EVICTIONS._value.get()
    kept.put(history(3, 4), memory(4))
    assert metrics.HISTORY_CACHE_EVICTIONS._value.get() == evictions + 1
    assert kept.get(history(2, 4)) is None
    assert kept.get(history(1, 4)) is not None
    assert kept.nbytes == metrics.HISTORY_CACHE_BYTES._value.get() == 2 * one


def test_what_no_member_owns_or_is_too_large_is_not_kept() -> None:
    kept = HistoryCache(10_000)
    kept.put(dataclasses.replace(history(1, 4), member_id=None), memory(4))
    kept.put(history(2, 40), memory(40))
    assert kept.nbytes == 0
    assert kept.get(history(2, 40)) is None
    assert kept.get(dataclasses.replace(history(1, 0), member_id=None)) is None


def test_threads_share_a_cache_that_is_too_small() -> None:
    """A memory is always that of the history asked for, or none, while entries come and go."""
    room = 3 * (memory(20).nbytes + history(1, 20).batch.get_total_buffer_size())
    shared = HistoryCache(room)

    def work(seed: int) -> None:
        numbers = np.random.default_rng(seed)
        for _ in range(300):
            asked = history(int(numbers.integers(1, 7)), int(numbers.integers(1, 21)))
            found = shared.get(asked)
            if found is None:
                filled = torch.full((1, 2, 2 * asked.batch.num_rows, 1, 4), float(asked.member_id))
                shared.put(asked, filled)
            else:
                assert found.shape[2] <= 2 * asked.batch.num_rows
                assert bool((found == asked.member_id).all())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert 0 < shared.nbytes <= room
    assert shared.nbytes == sum(entry.nbytes for entry in shared._entries.values())


def test_a_wrong_size_or_dtype_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="-1 bytes, want 0"):
        ScorerConfig(history_cache_bytes=-1)
    with pytest.raises(ValueError, match="dtype is 'int8', want one of float32, bfloat16"):
        ScorerConfig(dtype="int8")


def test_in_bfloat16_scores_are_near_and_a_memory_changes_them_no_further() -> None:
    config = ScorerConfig(dtype="bfloat16", history_cache_bytes=10**7)
    low, asked = Scorer(noisy_ranker(SPEC), "day", config), request(history(1, 40), 8, 2)
    [exact], [first], [second] = PLAIN([asked]), low([asked]), low([asked])
    cost = np.abs(first - exact).max()
    assert 0 < cost < 3e-2
    assert np.abs(second - first).max() <= 2 * cost
