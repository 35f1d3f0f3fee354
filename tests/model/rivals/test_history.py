# SPDX-License-Identifier: Apache-2.0
"""Candidates over a history: what they attend to, and where they stand behind it in training."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.rivals.appended import Appended
from model.rivals.history import append, sequence_of
from tests.builders import TINY, make_rank_batch, offsets_of
from tests.rival_builders import APPENDED, noisy


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 2**16), st.data())
def test_rows_are_appended_to_their_own_sequence(
    lengths: list[int], seed: int, data: st.DataObject
) -> None:
    cu_seqlens, total = offsets_of(lengths), sum(lengths)
    rows = data.draw(st.lists(st.integers(0, total - 1), max_size=10) if total else st.just([]))
    row_Q = torch.tensor(rows, dtype=torch.int64)
    source_T, at_Q, cu_tokens = append(cu_seqlens, row_Q)
    assert cu_tokens.dtype == torch.int32
    bounds, wanted = cu_seqlens.tolist(), []
    for s, length in enumerate(lengths):
        own = range(bounds[s], bounds[s] + length)
        wanted.append([*own, *(total + q for q, row in enumerate(rows) if row in own)])
    assert source_T.tolist() == [token for sequence in wanted for token in sequence]
    assert cu_tokens.tolist() == offsets_of([len(w) for w in wanted]).tolist()
    assert source_T[at_Q].tolist() == [total + q for q in range(len(rows))]


def test_empty_sequences_own_no_row() -> None:
    rows = torch.tensor([0, 1, 2, 4])
    assert sequence_of(offsets_of([0, 2, 0, 3, 0]), rows).tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize("length", [0, 1, 6])
@torch.inference_mode()
def test_a_candidate_attends_to_the_history_or_to_nothing(length: int) -> None:
    """One layer written out: a softmax over the history's scores and a zero for nothing."""
    ranker = noisy(APPENDED.model_copy(update={"layers": 1}))
    assert isinstance(ranker, Appended)
    model, batch = ranker.history, make_rank_batch(TINY, 1, [length], [3])
    history, block = batch.history, model.layers[0]
    x_MD = model.post_tokens(history.features) + model.action_tokens(history.actions)
    x_ND = model.post_tokens(batch.candidates)
    context = block.project(x_MD, model._rotation(history.known_M))
    query = block.project_candidates(x_ND, model._rotation(torch.full((3,), length))).q
    assert query is not None
    scores = torch.einsum("nhc,mhc->nhm", query, context.k) / query.shape[-1] ** 0.5
    weights = torch.cat([scores, scores.new_zeros(3, 2, 1)], -1).softmax(-1)
    seen = torch.einsum("nhm,mhc->nhc", weights[..., :-1], context.v)
    want = model.norm(block.finish(x_ND, seen))
    torch.testing.assert_close(model.of_candidates(batch), want)
