# SPDX-License-Identifier: Apache-2.0
"""Sets of rows, packed: each attends to itself, whatever lies beside it."""

from __future__ import annotations

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.rivals.sets import SetLayer, Sets

seeds = st.integers(0, 2**16)
sets_of = st.lists(st.integers(1, 9), min_size=1, max_size=5).flatmap(
    lambda sizes: st.permutations([s for s, size in enumerate(sizes) for _ in range(size)])
)


@settings(max_examples=40, deadline=None)
@given(sets_of)
def test_sets_hold_each_row_once_beside_its_own(sets: list[int]) -> None:
    made = Sets.grouped(torch.tensor(sets))
    seen = []
    for rows_GL, present_GL in made.parts:
        assert rows_GL.numel() <= 2 * int(present_GL.sum())
        for rows, present in zip(rows_GL, present_GL, strict=True):
            members = rows[present].tolist()
            assert {sets[r] for r in members} == {sets[members[0]]}
            assert sets.count(sets[members[0]]) == len(members)
            seen += members
    assert sorted(seen) == list(range(len(sets)))
    assert torch.tensor(seen)[made.back_N].tolist() == list(range(len(sets)))


@settings(max_examples=30, deadline=None)
@given(sets_of, seeds)
@example([0] * 5 + [1] * 7 + [2] * 3 + [3] * 4, 0)
def test_a_packed_set_is_the_set_alone(sets: list[int], seed: int) -> None:
    layer = SetLayer(8, 2, 2.0, 0.0).double()
    generator = torch.Generator().manual_seed(seed)
    x_ND = torch.randn(len(sets), 8, generator=generator, dtype=torch.float64)
    set_N = torch.tensor(sets)
    got = layer(x_ND, Sets.grouped(set_N))
    for value in set(sets):
        alone = x_ND[set_N == value]
        want = layer(alone, Sets.grouped(torch.zeros(len(alone), dtype=torch.int64)))
        torch.testing.assert_close(got[set_N == value], want, rtol=1e-10, atol=1e-10)
