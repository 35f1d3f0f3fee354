# SPDX-License-Identifier: Apache-2.0
"""The baseline is pointwise: one math in training and serving, whatever the history."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import DCNv2Config, HeadConfig, build_ranker
from model.batch import RankBatch
from tests.builders import TINY, make_rank_batch, make_train_batch, offsets_of, select_request

CONFIG = DCNv2Config(head=HeadConfig(width=8, hidden=1, cross=2, rank=4))
RANKER = build_ranker(CONFIG, TINY).double().eval()


@pytest.mark.law
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16), st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_one_math(seed: int, lengths: list[int]) -> None:
    batch = make_train_batch(TINY, seed, lengths)
    rows = batch.target_R
    empty = make_rank_batch(TINY, 0, [0], [0]).history
    request = RankBatch(
        history=empty,
        candidates={n: c[rows] for n, c in batch.impressions.features.items()},
        context_NC=batch.context_RC,
        cu_candidates=offsets_of([len(rows)]),
        position_N=batch.position_R,
    )
    with torch.inference_mode():
        torch.testing.assert_close(RANKER.rank(request), RANKER(batch).logits_RK)


@pytest.mark.law
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 6), st.data())
def test_candidate_isolation(seed: int, count: int, data: st.DataObject) -> None:
    batch = make_rank_batch(TINY, seed, [4], [count])
    chosen = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=8))
    with torch.inference_mode():
        got = RANKER.rank(select_request(batch, 0, chosen))
        torch.testing.assert_close(got, RANKER.rank(batch)[chosen])


def test_it_sees_no_history() -> None:
    batch = make_rank_batch(TINY, 1, [6], [3])
    other = dataclasses.replace(batch, history=make_rank_batch(TINY, 2, [9], [3]).history)
    assert torch.equal(RANKER.rank(batch), RANKER.rank(other))


def test_auxiliary_logits_are_zeros_without_gradient() -> None:
    batch = make_train_batch(TINY, 1, [20])
    output = RANKER(batch)
    assert output.auxiliary_AK.shape == (len(batch.auxiliary_A), 3)
    assert not output.auxiliary_AK.any()
    assert not output.auxiliary_AK.requires_grad
