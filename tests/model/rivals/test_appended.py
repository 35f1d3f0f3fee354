# SPDX-License-Identifier: Apache-2.0
"""Candidates appended to a history: fused late with their context; none sees itself."""

from __future__ import annotations

import dataclasses

import torch

from model.rivals.appended import Appended
from tests.builders import TINY, make_rank_batch, make_train_batch
from tests.rival_builders import APPENDED, noisy


def ranker_of() -> Appended:
    ranker = noisy(APPENDED)
    assert isinstance(ranker, Appended)
    return ranker


RANKER = ranker_of()


@torch.inference_mode()
def test_scores_are_state_and_context_through_the_head() -> None:
    batch = make_rank_batch(TINY, 1, [6], [3])
    state_ND = RANKER.history.of_candidates(batch)
    joined = torch.cat([state_ND, RANKER.context_encoder(batch.context_NC)], -1)
    want = RANKER.head(joined) + RANKER.offsets(batch.position_N)
    torch.testing.assert_close(RANKER.rank(batch), want)


@torch.inference_mode()
def test_context_changes_a_score_and_not_its_state() -> None:
    batch = make_rank_batch(TINY, 1, [6], [3])
    other = dataclasses.replace(batch, context_NC=make_rank_batch(TINY, 2, [6], [3]).context_NC)
    states = [RANKER.history.of_candidates(b) for b in (batch, other)]
    assert torch.equal(*states)
    assert not torch.isclose(RANKER.rank(batch), RANKER.rank(other)).all()


@torch.inference_mode()
def test_without_a_history_the_state_is_the_candidates_alone() -> None:
    """What it might attend to is an empty key, of itself too: no key of it reaches the state."""
    batch = make_rank_batch(TINY, 1, [0], [3])
    want = RANKER.history.of_candidates(batch)
    changed = noisy(APPENDED)
    assert isinstance(changed, Appended)
    for block in changed.history.layers:
        block.attention.key_value.weight.zero_()
    assert torch.equal(changed.history.of_candidates(batch), want)


@torch.inference_mode()
def test_auxiliary_logits_come_of_the_state_alone() -> None:
    batch = make_train_batch(TINY, 3, [9, 5], "day")
    rows = torch.cat([batch.target_R, batch.auxiliary_A])
    state = RANKER.history.of_impressions(batch.impressions, rows)[len(batch.target_R) :]
    torch.testing.assert_close(RANKER(batch).auxiliary_AK, RANKER.auxiliary(state))
