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
from serving.predictor.history_cache import HistoryCache
from serving.predictor.scorer import Scorer, ScorerConfig
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
    for mine, other in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, other, atol=BOUND)


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
    entry = memory(4).nbytes + history(1, 4).batch.get_total_buffer_size()
    kept = HistoryCache(2 * entry)
    for member in (1, 2):
        kept.put(history(member, 4), memory(4))
    assert kept.get(history(1, 4)) is not None
    evictions = metrics.HISTORY_CACHE_EVICTIONS._value.get()
    kept.put(history(3, 4), memory(4))
    assert metrics.HISTORY_CACHE_EVICTIONS._value.get() == evictions + 1
    assert kept.get(history(2, 4)) is None
    assert kept.get(history(1, 4)) is not None
    assert kept.nbytes == metrics.HISTORY_CACHE_BYTES._value.get() == 2 * entry


def test_what_no_member_owns_or_has_no_rows_is_neither_kept_nor_looked_up() -> None:
    kept, nobody = HistoryCache(10**7), dataclasses.replace(history(1, 4), member_id=None)
    kept.put(nobody, memory(4))
    kept.put(history(2, 0), memory(0))
    kept.put(history(3, 8, 8), memory(0))
    assert (kept.nbytes, kept._entries) == (0, {})
    names = ("miss", "hit", "extended", "slid", "stale")
    before = [reads(name) for name in names]
    for asked in (nobody, history(1, 0), dataclasses.replace(history(1, 0), member_id=None)):
        assert kept.get(asked) is None
    assert [reads(name) for name in names] == before


def size(rows: int) -> int:
    """Bytes of an entry of `own(rows)`: its memory and its rows.

    The memory has 2 layers of keys and values, 2 tokens a row, each of 2 x 8 float32.
    """
    return 2 * 2 * 2 * rows * 2 * 8 * 4 + own(0, rows).batch.get_total_buffer_size()


@cache
def own(member: int, rows: int) -> History:
    """A history in buffers of its own, none larger than it needs."""
    value = history_value(SPEC, rows, seed=1)
    return dataclasses.replace(decode_history(value, SPEC), member_id=member)


def test_exactly_the_limit_is_kept_and_one_byte_more_leaves_the_others_alone() -> None:
    """Whatever does not fit is refused before anything makes room for it."""
    evictions = metrics.HISTORY_CACHE_EVICTIONS._value.get()
    exact = HistoryCache(size(9))
    exact.put(own(5, 9), memory(9))
    assert exact.get(own(5, 9)) is not None
    assert exact.nbytes == metrics.HISTORY_CACHE_BYTES._value.get() == size(9)
    tight = HistoryCache(size(9) - 1)
    for member in (7, 8):
        tight.put(own(member, 3), memory(3))
    assert 2 * size(3) < size(9) - 1 < 3 * size(3)
    for refused in (own(5, 9), own(7, 9)):
        tight.put(refused, memory(9))
        assert list(tight._entries) == [7, 8]
        assert tight.nbytes == metrics.HISTORY_CACHE_BYTES._value.get() == 2 * size(3)
    for member in (7, 8):
        stored = tight.get(own(member, 3))
        assert stored is not None
        assert stored.shape[2] == 6
    assert metrics.HISTORY_CACHE_EVICTIONS._value.get() == evictions


@pytest.mark.parametrize("room", [0, 1])
def test_a_cache_without_room_keeps_nothing(room: int) -> None:
    kept = HistoryCache(room)
    kept.put(own(1, 1), memory(1))
    assert kept.get(own(1, 1)) is None
    assert (kept.nbytes, len(kept._entries)) == (0, 0)


def test_room_is_made_by_the_longest_unused_and_by_no_more_than_needed() -> None:
    """A look-up and a put make an entry the newest; three go when one is as large as three."""
    kept = HistoryCache(size(2) * 3 + size(6))
    for member in (1, 2, 3):
        kept.put(own(member, 2), memory(2))
    kept.put(own(4, 6), memory(6))
    assert list(kept._entries) == [1, 2, 3, 4]
    assert kept.get(own(1, 2)) is not None
    assert kept.get(own(9, 2)) is None
    kept.put(own(2, 2), memory(2))
    assert list(kept._entries) == [3, 4, 1, 2]
    assert kept.nbytes == 3 * size(2) + size(6)
    before = metrics.HISTORY_CACHE_EVICTIONS._value.get()
    kept.put(own(5, 1), memory(1))
    assert list(kept._entries) == [4, 1, 2, 5]
    assert metrics.HISTORY_CACHE_EVICTIONS._value.get() == before + 1
    kept.put(own(6, 6), memory(6))
    assert list(kept._entries) == [1, 2, 5, 6]
    assert metrics.HISTORY_CACHE_EVICTIONS._value.get() == before + 2
    assert kept.nbytes == 2 * size(2) + size(1) + size(6)
    assert metrics.HISTORY_CACHE_BYTES._value.get() == kept.nbytes


def test_a_replaced_entry_gives_its_bytes_back() -> None:
    kept = HistoryCache(size(6) + size(2))
    evictions = metrics.HISTORY_CACHE_EVICTIONS._value.get()
    for rows in (2, 6, 1, 6, 6):
        kept.put(own(1, rows), memory(rows))
        assert kept.nbytes == metrics.HISTORY_CACHE_BYTES._value.get() == size(rows)
    kept.put(own(2, 2), memory(2))
    assert list(kept._entries) == [1, 2]
    assert metrics.HISTORY_CACHE_EVICTIONS._value.get() == evictions


def numbered(rows: int) -> torch.Tensor:
    """A memory whose every token holds its own number."""
    tokens = torch.arange(2.0 * rows)
    return tokens[None, None, :, None, None].expand(2, 2, 2 * rows, 2, 8).clone()


@pytest.mark.parametrize(
    ("asked", "result", "rows"),
    [
        (history(1, 10, 4), "hit", 6),
        (history(1, 9, 4), "hit", 5),
        (history(1, 5, 4), "hit", 1),
        (history(1, 11, 4), "extended", 6),
        (history(1, LOG, 4), "extended", 6),
        (history(1, 10, 3), "slid", None),
        (history(1, 10, 5), "slid", None),
        (history(1, 4, 0), "slid", None),
        (dataclasses.replace(history(2, 10, 4), member_id=1), "stale", None),
        (history(2, 10, 4), "miss", None),
    ],
)
def test_what_an_entry_gives_to_each_window(asked: History, result: str, rows: int | None) -> None:
    """The entry is rows 4 to 9 of a member: tokens 0 to 11."""
    kept, names = HistoryCache(10**7), ("miss", "hit", "extended", "slid", "stale")
    kept.put(history(1, 10, 4), numbered(6))
    before = {name: reads(name) for name in names}
    given = kept.get(asked)
    assert {n: reads(n) - before[n] for n in names} == {n: float(n == result) for n in names}
    if rows is None:
        assert given is None
    else:
        assert given is not None
        assert given[1, 0, :, 1, 7].tolist() == list(range(2 * rows))
    assert kept.get(history(1, 10, 4)) is not None


@pytest.mark.parametrize("row", [0, 5])
@pytest.mark.parametrize("name", SPEC.history_schema.names)
def test_a_row_is_the_same_in_every_column_or_the_entry_is_stale(name: str, row: int) -> None:
    kept, whole = HistoryCache(10**7), history(1, 6)
    kept.put(whole, numbered(6))
    other = dataclasses.replace(whole, batch=_with_another_bit(whole.batch, name, row))
    assert kept.get(other) is None
    # A row behind the entry's is nobody's business yet.
    longer = dataclasses.replace(
        history(1, 7), batch=_with_another_bit(log(1).slice(0, 7), name, 6)
    )
    assert kept.get(longer) is not None


def _with_another_bit(batch: pa.RecordBatch, name: str, row: int) -> pa.RecordBatch:
    """The last value of one row differs in its lowest bit."""
    place, column = batch.schema.get_field_index(name), batch.column(name)
    if pa.types.is_boolean(column.type):
        flags = column.to_pylist()
        flags[row] = not flags[row]
        return batch.set_column(place, batch.schema.field(place), pa.array(flags))
    lists = pa.types.is_fixed_size_list(column.type)
    flat = (column.flatten() if lists else column).to_numpy().copy()
    size = len(flat) // len(column)
    bits = flat.view(f"u{flat.dtype.itemsize}")
    bits[row * size + size - 1] ^= 1
    values = pa.array(flat)
    changed = pa.FixedSizeListArray.from_arrays(values, type=column.type) if lists else values
    return batch.set_column(place, batch.schema.field(place), changed)


def test_a_nan_is_the_same_row_and_a_zero_of_another_sign_is_not() -> None:
    whole = history(1, 3)
    kept, place = HistoryCache(10**7), whole.batch.schema.get_field_index("length_s")

    def with_lengths(*values: float) -> History:
        column = pa.array(np.array(values, np.float32))
        field = whole.batch.schema.field(place)
        return dataclasses.replace(whole, batch=whole.batch.set_column(place, field, column))

    kept.put(with_lengths(np.nan, 0.0, 1.0), numbered(3))
    assert kept.get(with_lengths(np.nan, 0.0, 1.0)) is not None
    assert kept.get(with_lengths(np.nan, -0.0, 1.0)) is None
    assert kept.get(with_lengths(0.0, 0.0, 1.0)) is None


def test_threads_share_a_cache_that_is_too_small() -> None:
    """A memory is always that of the history asked for, or none, while entries come and go."""
    room = 3 * (memory(20).nbytes + history(1, 20).batch.get_total_buffer_size())
    shared = HistoryCache(room)

    def work(seed: int) -> None:
        numbers = np.random.default_rng(seed)
        for _ in range(300):
            asked = history(int(numbers.integers(1, 7)), int(numbers.integers(1, 21)))
            given = shared.get(asked)
            if given is None:
                filled = torch.full((1, 2, 2 * asked.batch.num_rows, 1, 4), float(asked.member_id))
                shared.put(asked, filled)
            else:
                assert given.shape[2] <= 2 * asked.batch.num_rows
                assert bool((given == asked.member_id).all())

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
