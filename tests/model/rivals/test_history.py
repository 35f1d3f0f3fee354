# SPDX-License-Identifier: Apache-2.0
"""Candidates behind their history: where each stands, and what the longer sequences are."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.rivals.history import append, sequence_of
from tests.builders import offsets_of


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
        here = range(bounds[s], bounds[s] + length)
        wanted.append([*here, *(total + q for q, row in enumerate(rows) if row in here)])
    assert source_T.tolist() == [token for sequence in wanted for token in sequence]
    assert cu_tokens.tolist() == offsets_of([len(w) for w in wanted]).tolist()
    assert source_T[at_Q].tolist() == [total + q for q in range(len(rows))]


def test_empty_sequences_own_no_row() -> None:
    rows = torch.tensor([0, 1, 2, 4])
    assert sequence_of(offsets_of([0, 2, 0, 3, 0]), rows).tolist() == [1, 1, 3, 3]
