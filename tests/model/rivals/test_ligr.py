# SPDX-License-Identifier: Apache-2.0
"""LiGR ranks a set: scores depend on who else is in it, not on the order, nor on other requests.

This is the one ranker that the law of candidate isolation does not bind; the tests here say what
holds in its place.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.rivals.ligr import request_of
from tests.builders import TINY, make_rank_batch, make_train_batch, select_request
from tests.rival_builders import LIGR, noisy, requests_of

RANKER = noisy(LIGR)
seeds = st.integers(0, 2**16)


@torch.inference_mode()
def test_scores_depend_on_the_set() -> None:
    batch = make_rank_batch(TINY, 1, [6], [4])
    whole = RANKER.rank(batch)
    fewer = RANKER.rank(select_request(batch, 0, [0, 1]))
    assert not torch.isclose(fewer, whole[:2]).any()
    other = make_rank_batch(TINY, 2, [6], [4])
    changed = {n: torch.cat([c[:3], other.candidates[n][3:]]) for n, c in batch.candidates.items()}
    got = RANKER.rank(dataclasses.replace(batch, candidates=changed))
    assert not torch.isclose(got, whole).any()


@torch.inference_mode()
def test_the_others_context_features_reach_a_score() -> None:
    batch = make_rank_batch(TINY, 1, [6], [2])
    context = batch.context_NC.clone()
    context[1] = make_rank_batch(TINY, 2, [6], [2]).context_NC[1]
    got = RANKER.rank(dataclasses.replace(batch, context_NC=context))
    assert not torch.isclose(got[0], RANKER.rank(batch)[0]).any()


@pytest.mark.law
@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(0, 9), st.data())
def test_scores_do_not_depend_on_the_order(seed: int, length: int, data: st.DataObject) -> None:
    batch = make_rank_batch(TINY, seed, [length], [6], "day")
    order = data.draw(st.permutations(range(6)))
    with torch.inference_mode():
        got, want = RANKER.rank(select_request(batch, 0, order)), RANKER.rank(batch)[order]
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.law
@torch.inference_mode()
def test_requests_of_one_batch_stay_apart() -> None:
    """Changing all of one request, its history too, leaves the other's scores as they were."""
    batch, other = (make_rank_batch(TINY, seed, [5, 4], [3, 2]) for seed in (1, 2))
    mine, theirs = batch.history, other.history
    history = dataclasses.replace(
        mine,
        features={n: torch.cat([c[:5], theirs.features[n][5:]]) for n, c in mine.features.items()},
        actions={n: torch.cat([c[:5], theirs.actions[n][5:]]) for n, c in mine.actions.items()},
    )
    candidates = batch.candidates.items()
    changed = dataclasses.replace(
        batch,
        history=history,
        candidates={n: torch.cat([c[:3], other.candidates[n][3:]]) for n, c in candidates},
        context_NC=torch.cat([batch.context_NC[:3], other.context_NC[3:]]),
    )
    got, want = RANKER.rank(changed), RANKER.rank(batch)
    torch.testing.assert_close(got[:3], want[:3], rtol=1e-10, atol=1e-10)
    assert not torch.isclose(got[3:], want[3:]).any()


def test_a_set_in_training_is_one_request() -> None:
    batch = make_train_batch(TINY, 3, [9, 0, 14], "day")
    set_R = request_of(batch.impressions, batch.target_R).tolist()
    want = requests_of(batch)
    assert max(len(targets) for targets in want) > 1
    known = batch.impressions.known_M[batch.target_R]
    assert len(want) > len(known.unique())  # some knew the same and were served at another time
    sets = [[r for r, s in enumerate(set_R) if s == value] for value in dict.fromkeys(set_R)]
    assert sorted(sets) == sorted(want)


def test_what_is_served_later_does_not_reach_a_score_in_training() -> None:
    batch = make_train_batch(TINY, 3, [9], "day")
    known = batch.impressions.known_M[batch.target_R]
    requests = requests_of(batch)
    request = next(r for r in requests if len(r) < int((known == known[r[0]]).sum()))
    context = torch.full_like(batch.context_RC, 3.0)
    context[request] = batch.context_RC[request]
    got = RANKER(dataclasses.replace(batch, context_RC=context)).logits_RK
    want = RANKER(batch).logits_RK
    torch.testing.assert_close(got[request], want[request], rtol=1e-10, atol=1e-10)
    untold = dataclasses.replace(batch.impressions, time_M=None)
    with pytest.raises(ValueError, match="time_M"):
        RANKER(dataclasses.replace(batch, impressions=untold))
