# SPDX-License-Identifier: Apache-2.0
"""The blocks that a tile visits hold every key that a row sees, once, masked where they must be.

A kernel of the test's own counts what the shared parts of the real ones visit.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.shared_context_attention import SeqlenInfo
from kernels.shared_context_attention.reference import context_mask
from tests.kernels.shared_context_attention.cases import offsets, random_prefix
from tests.kernels.shared_context_attention.gpu.cases import HAS_GPU

pytest.importorskip("triton", reason="needs Triton: install the extra gpu")

import triton
import triton.language as tl

from kernels.shared_context_attention.gpu.blocks import block_start, is_seen, sees, stretches

DEVICE = "cuda" if HAS_GPU else "cpu"
TILE, STEP = 16, 16


@triton.jit
def count_visits(
    prefixes,
    visits,
    count,
    length,
    group: tl.constexpr,
    CANDIDATES: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
):
    """Adds one to `visits[row, key]` for every block in which the row takes the key."""
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    prefix, own, last = sees(prefixes, row, count, length, group, CANDIDATES)
    whole, partly, partial, beyond = stretches(prefix, own, last, row < count, STEP)
    for masked in tl.static_range(2):
        for block in range(0, partly if masked else whole):
            start = block_start(block, masked, whole, partial, beyond, STEP)
            column = start + tl.arange(0, STEP)
            taken = (row < count)[:, None] & (column < length)[None, :]
            if masked:
                taken &= is_seen(column[None, :], prefix[:, None], own[:, None], last[:, None])
            place = visits + row[:, None] * length + column[None, :]
            tl.store(place, tl.load(place, mask=taken, other=0) + 1, mask=taken)


def visited(prefix: Tensor | None, count: int, length: int, group: int) -> Tensor:
    """How often each of the last `count` rows of a sequence takes each of its keys."""
    visits = torch.zeros(count, length, dtype=torch.int32, device=DEVICE)
    own = None if prefix is None else prefix.to(DEVICE)
    count_visits[(-(-count // TILE),)](own, visits, count, length, group, False, TILE, STEP)
    return visits.cpu()


@settings(max_examples=100 if HAS_GPU else 15, deadline=None)
@given(
    length=st.integers(1, 70), group=st.integers(1, 4), known=st.booleans(), seed=st.integers(0, 99)
)
def test_a_row_takes_every_key_that_it_sees_once(
    length: int, group: int, known: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    prefix = random_prefix([length], group, generator) if known else None
    info = SeqlenInfo(cu_seqlens=offsets([length]), prefix=prefix, group=group)
    got = visited(prefix, length, length, group)
    assert torch.equal(got, context_mask(info, 0).int())


def test_rows_of_the_last_tokens_stand_where_they_stood() -> None:
    info = SeqlenInfo(cu_seqlens=offsets([40]))
    assert torch.equal(visited(None, 7, 40, 2), context_mask(info, 0)[33:].int())


def test_a_candidate_takes_the_whole_context_once() -> None:
    visits = torch.zeros(5, 37, dtype=torch.int32, device=DEVICE)
    count_visits[(1,)](None, visits, 5, 37, 2, True, TILE, STEP)
    assert bool((visits == 1).all())
