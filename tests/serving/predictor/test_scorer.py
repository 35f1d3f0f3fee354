# SPDX-License-Identifier: Apache-2.0
"""Scores of requests are split as they came, remembered or not, and equal candidates' are equal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from feature_repo.spec import Spec
from feature_repo.specs import KUAIRAND
from feature_repo.specs import SIMULATOR as SPEC
from model import DCNv2Config, build_ranker
from serving.predictor.history_cache import HistoryCache
from serving.predictor.rank_batch import build_rank_batch
from serving.predictor.scorer import Scorer, ScorerConfig
from serving.wire import RankRequest
from tests.serving_builders import noisy_ranker, rank_request, take

BOUND = 1e-6
"""Probabilities of one float32 model from two packings."""


def scorer(**config: object) -> Scorer:
    return Scorer(noisy_ranker(SPEC), "day", ScorerConfig(**config))  # type: ignore[arg-type]


PLAIN = scorer()


def with_rows(request: RankRequest, rows: Sequence[int]) -> RankRequest:
    """Some of a request's candidates, in that order, some of them twice."""
    features, context = take(request.features, request.context_NC, list(rows))
    return dataclasses.replace(request, features=features, context_NC=context)


@pytest.mark.law
@pytest.mark.parametrize("history", [0, 9])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 17, 33, 64])
def test_a_candidate_named_twice_has_one_score(history: int, count: int) -> None:
    whole = rank_request(SPEC, history, count, seed=count)
    rows = [*range(count), 0, count // 2, 0, count - 1, *range(count)]
    [alone], [twice] = PLAIN([whole]), PLAIN([with_rows(whole, rows)])
    assert twice.shape == (len(rows), 6)
    np.testing.assert_allclose(twice, alone[rows], atol=BOUND)
    for place, row in enumerate(rows):
        assert twice[place].tobytes() == twice[row].tobytes()


@pytest.mark.law
@pytest.mark.parametrize("config", [{}, {"history_cache_bytes": 10**7}, {"dtype": "bfloat16"}])
def test_requests_that_share_a_batch_name_candidates_twice(config: dict[str, object]) -> None:
    shared, drawn = scorer(**config), [rank_request(SPEC, 9 * i, 4 + i, seed=i) for i in range(4)]
    rows = [[3, 1, 3], [0, 1, 2, 3, 4], [5, 5, 5, 5], [6, 0, 6, 1, 0]]
    requests = [with_rows(r, places) for r, places in zip(drawn, rows, strict=True)]
    for _ in range(2):
        for scoring, places, got in zip(drawn, rows, shared(requests), strict=True):
            assert got.shape == (len(places), 6)
            same = {}
            for place, row in enumerate(places):
                assert same.setdefault(row, got[place].tobytes()) == got[place].tobytes()
            if "dtype" not in config:
                [want] = PLAIN([scoring])
                np.testing.assert_allclose(got, want[places], atol=BOUND)


def test_one_other_value_makes_another_candidate() -> None:
    """The same post with another context, code or vector is scored apart."""
    request = with_rows(rank_request(SPEC, 9, 3, seed=4), [0, 0, 1, 0])
    assert request.distinct()[1].tolist() == [0, 0, 1, 0]
    for name in (*request.features, "context"):
        column = (request.context_NC if name == "context" else request.features[name]).copy()
        column[3] = column[2] + 1
        other = (
            dataclasses.replace(request, context_NC=column)
            if name == "context"
            else dataclasses.replace(request, features={**request.features, name: column})
        )
        once, places = other.distinct()
        assert places.tolist() == [0, 0, 1, 2]
        assert once.num_candidates == 3
        kept = once.context_NC if name == "context" else once.features[name]
        np.testing.assert_array_equal(kept, column[[0, 2, 3]])


@pytest.mark.parametrize("spec", [SPEC, KUAIRAND], ids=lambda s: s.name)
def test_distinct_candidates_stay_in_the_order_they_first_come(spec: Spec) -> None:
    whole = rank_request(spec, 2, 5, seed=1)
    untouched, places = whole.distinct()
    assert untouched is whole
    assert places.tolist() == [0, 1, 2, 3, 4]
    once, places = with_rows(whole, [4, 1, 4, 0, 1, 3, 4]).distinct()
    assert places.tolist() == [0, 1, 0, 2, 1, 3, 0]
    want = with_rows(whole, [4, 1, 0, 3])
    for name, column in want.features.items():
        assert once.features[name].tobytes() == np.ascontiguousarray(column).tobytes()
    assert once.context_NC.tobytes() == want.context_NC.tobytes()
    assert (once.history, once.time_ms) == (whole.history, whole.time_ms)


def test_a_missing_number_is_the_same_candidate_as_itself() -> None:
    request = with_rows(rank_request(SPEC, 0, 2, seed=2), [1, 0, 1])
    request.context_NC[:, 0] = np.nan
    request.features["length_s"][:] = np.nan
    assert request.distinct()[1].tolist() == [0, 1, 0]
    [got] = PLAIN([request])
    assert got[0].tobytes() == got[2].tobytes()
    assert np.isfinite(got).all()


def test_no_candidates_are_distinct() -> None:
    once, places = with_rows(rank_request(SPEC, 0, 2, seed=2), []).distinct()
    assert (once.num_candidates, places.tolist()) == (0, [])


CACHES = [0, 2**24]
LOOSE = 2e-5


@pytest.mark.parametrize("cache", CACHES)
def test_no_request_has_no_scores(cache: int) -> None:
    assert list(scorer(history_cache_bytes=cache)([])) == []


@pytest.mark.parametrize("cache", CACHES)
def test_each_request_gets_its_own_candidates_scores(cache: int) -> None:
    """Requests of one, none and several candidates, with histories and without."""
    requests = [
        rank_request(SPEC, rows, count, seed)
        for seed, (rows, count) in enumerate([(7, 3), (0, 1), (5, 0), (40, 4), (0, 0)], 1)
    ]
    want = []
    for request in requests:
        batch = build_rank_batch(SPEC, "day", [request])
        with torch.inference_mode():
            want.append(noisy_ranker(SPEC).rank(batch).sigmoid().numpy())
    scoring = scorer(history_cache_bytes=cache)
    for _ in range(2):
        got = scoring(requests)
        assert [g.shape for g in got] == [(3, 6), (1, 6), (0, 6), (4, 6), (0, 6)]
        for mine, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=LOOSE)
            assert mine.dtype == np.float32


def test_a_history_is_remembered_where_there_is_one() -> None:
    scoring = scorer(history_cache_bytes=2**24)
    assert isinstance(scoring.cache, HistoryCache)
    requests = [rank_request(SPEC, 7, 2, 1), rank_request(SPEC, 0, 2, 2)]
    kept: list[int] = []
    put = scoring.cache.put

    def counted(history: object, memory: object) -> None:
        kept.append(history.member_id)  # type: ignore[attr-defined]
        put(history, memory)  # type: ignore[arg-type]

    scoring.cache.put = counted  # type: ignore[method-assign, assignment]
    scoring(requests)
    assert kept == [1]
    scoring(requests)
    assert kept == [1]


def test_a_ranker_without_a_memory_remembers_nothing() -> None:
    pointwise = build_ranker(DCNv2Config(), SPEC).eval()
    scoring = Scorer(pointwise, "day", ScorerConfig(history_cache_bytes=2**24, dtype="bfloat16"))
    assert scoring.cache is None
    assert [g.shape for g in scoring([rank_request(SPEC, 3, 2, 1)])] == [(2, 6)]


def test_no_bytes_for_histories_is_no_cache() -> None:
    assert scorer(history_cache_bytes=0).cache is None
    assert scorer(history_cache_bytes=1).cache is not None


def test_blocks_compute_in_what_was_asked_for() -> None:
    request = rank_request(SPEC, 30, 5, 3)
    [full], [half] = scorer()([request]), scorer(dtype="bfloat16")([request])
    assert half.dtype == np.float32
    assert 0 < np.abs(full - half).max() < 0.05


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"dtype": "float16"}, "dtype is 'float16', want one of float32, bfloat16"),
        ({"history_cache_bytes": -1}, "the history cache has -1 bytes, want 0"),
    ],
)
def test_a_setting_that_is_none_is_refused(setting: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ScorerConfig(**setting)  # type: ignore[arg-type]


def test_the_device_is_the_one_that_was_named() -> None:
    assert scorer().device == torch.device("cpu")
    assert ScorerConfig() == ScorerConfig(device="cpu", dtype="float32", history_cache_bytes=0)
