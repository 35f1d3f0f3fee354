# SPDX-License-Identifier: Apache-2.0
"""Scores of requests: a candidate named twice has one score, to the bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from feature_repo.spec import Spec
from feature_repo.specs import KUAIRAND
from feature_repo.specs import SIMULATOR as SPEC
from serving.scorer import Scorer, ScorerConfig
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
        for one, places, got in zip(drawn, rows, shared(requests), strict=True):
            assert got.shape == (len(places), 6)
            same = {}
            for place, row in enumerate(places):
                assert same.setdefault(row, got[place].tobytes()) == got[place].tobytes()
            if "dtype" not in config:
                [want] = PLAIN([one])
                np.testing.assert_allclose(got, want[places], atol=BOUND)


def test_one_other_value_makes_another_candidate() -> None:
    """The same post with another context, code or vector is scored apart."""
    one = with_rows(rank_request(SPEC, 9, 3, seed=4), [0, 0, 1, 0])
    assert one.distinct()[1].tolist() == [0, 0, 1, 0]
    for name in (*one.features, "context"):
        column = (one.context_NC if name == "context" else one.features[name]).copy()
        column[3] = column[2] + 1
        other = (
            dataclasses.replace(one, context_NC=column)
            if name == "context"
            else dataclasses.replace(one, features={**one.features, name: column})
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
    one = with_rows(rank_request(SPEC, 0, 2, seed=2), [1, 0, 1])
    one.context_NC[:, 0] = np.nan
    one.features["length_s"][:] = np.nan
    assert one.distinct()[1].tolist() == [0, 1, 0]
    [got] = PLAIN([one])
    assert got[0].tobytes() == got[2].tobytes()
    assert np.isfinite(got).all()


def test_no_candidates_are_distinct() -> None:
    once, places = with_rows(rank_request(SPEC, 0, 2, seed=2), []).distinct()
    assert (once.num_candidates, places.tolist()) == (0, [])
