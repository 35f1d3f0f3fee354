# SPDX-License-Identifier: Apache-2.0
"""Requests to the model's batch: only what was known, packed, and one request not copied."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.spec import DAY_MS, Freshness
from feature_repo.specs import SIMULATOR as SPEC
from serving.history import History
from serving.predictor.rank_batch import SERVING_POSITION, build_rank_batch, known_history
from serving.wire import RankRequest
from tests.serving_builders import NOW_MS, noisy_ranker, rank_request

FRESHNESS: list[Freshness] = ["day", "30m", "immediate"]


def at(request: RankRequest, time_ms: int) -> RankRequest:
    return RankRequest(
        history=request.history,
        features=request.features,
        context_NC=request.context_NC,
        time_ms=time_ms,
    )


@pytest.mark.law
@settings(max_examples=40, deadline=None)
@given(st.sampled_from(FRESHNESS), st.integers(0, 90), st.integers(0, 25), st.integers(0, 99))
def test_law_4_nothing_that_arrived_after_the_cutoff_is_in_the_batch(
    freshness: Freshness, rows: int, days: int, seed: int
) -> None:
    request = at(rank_request(SPEC, rows, 2, seed), NOW_MS - days * DAY_MS)
    kept = known_history(SPEC, freshness, request).batch
    cutoff = int(SPEC.cutoff(np.array(request.time_ms), freshness))
    arrival = request.history.batch.column("arrival_time").to_numpy()
    assert kept.num_rows == (arrival < cutoff).sum()
    batch = build_rank_batch(SPEC, freshness, [request])
    assert batch.history.num_impressions == kept.num_rows
    known = batch.history.known_M.numpy()
    assert (known <= np.arange(len(known))).all()
    event = kept.column("event_time").to_numpy()
    served = SPEC.cutoff(event, freshness)
    assert all((arrival[:k] < c).all() for k, c in zip(known, served, strict=True))


def test_one_request_is_not_copied() -> None:
    request = rank_request(SPEC, 40, 5, 1)
    batch = build_rank_batch(SPEC, "day", [at(request, NOW_MS + 2 * DAY_MS)])
    for name, column in request.features.items():
        assert batch.candidates[name].data_ptr() == column.ctypes.data
    assert batch.context_NC.data_ptr() == request.context_NC.ctypes.data
    ids = request.history.batch.column("post_id")
    assert batch.history.features["post_id"].data_ptr() == ids.buffers()[1].address


@pytest.mark.law
@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 5)), min_size=2, max_size=4))
def test_law_5_joined_requests_score_as_each_alone(sizes: list[tuple[int, int]]) -> None:
    ranker = noisy_ranker(SPEC).double()
    requests = [rank_request(SPEC, rows, n, i) for i, (rows, n) in enumerate(sizes)]
    with torch.inference_mode():
        joined = ranker.rank(build_rank_batch(SPEC, "day", requests))
        alone = [ranker.rank(build_rank_batch(SPEC, "day", [r])) for r in requests]
    torch.testing.assert_close(joined, torch.cat(alone), rtol=1e-9, atol=1e-9)


def test_every_candidate_is_scored_at_the_assumed_position() -> None:
    batch = build_rank_batch(
        SPEC, "day", [rank_request(SPEC, 3, 4, 1), rank_request(SPEC, 0, 2, 2)]
    )
    assert batch.position_N.tolist() == [SERVING_POSITION] * 6
    assert batch.cu_candidates.tolist() == [0, 4, 6]
    assert batch.history.cu_seqlens[-1] == batch.history.num_impressions


def test_no_request_is_no_batch() -> None:
    with pytest.raises(ValueError, match="there is no request to rank"):
        build_rank_batch(SPEC, "day", [])


def test_each_impression_and_each_candidate_has_its_time() -> None:
    early, late = rank_request(SPEC, 3, 2, 1), rank_request(SPEC, 2, 1, 2)
    early, late = at(early, NOW_MS + 2 * DAY_MS), at(late, NOW_MS + 3 * DAY_MS)
    batch = build_rank_batch(SPEC, "immediate", [early, late])
    events = [r.history.batch.column("event_time").to_pylist() for r in (early, late)]
    assert batch.history.time_M is not None
    assert batch.time_N is not None
    assert batch.history.time_M.tolist() == events[0] + events[1]
    assert batch.time_N.tolist() == [early.time_ms, early.time_ms, late.time_ms]


def test_a_known_history_counts_from_where_its_window_starts() -> None:
    request = rank_request(SPEC, 9, 1, 3)
    batch = request.history.batch
    slid = History(batch, 64 + batch.num_rows, 64, request.history.member_id)
    moved = dataclasses.replace(request, history=slid)
    for served in (NOW_MS - 1, NOW_MS + 2 * DAY_MS):
        known = known_history(SPEC, "immediate", at(moved, served))
        assert (known.start, known.count) == (64, 64 + known.batch.num_rows)
        assert known.member_id == request.history.member_id
    assert known.batch.num_rows == batch.num_rows
