# SPDX-License-Identifier: Apache-2.0
"""A pointwise ranker scores a candidate by its own features and its member's counters."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from model import DCNv2Config
from model.pointwise import PointwiseRanker
from tests.builders import TINY, make_rank_batch, make_train_batch


class Probe(PointwiseRanker):
    """Logits that tell what was joined: a fixed projection of it, and the feed position."""

    def __init__(self, embedding_dropout: float = 0.0) -> None:
        super().__init__(DCNv2Config(), TINY, embedding_dropout)
        self.linear = nn.Linear(self.width, len(TINY.tasks))

    def score(self, joined_RJ: Tensor, position_R: Tensor) -> Tensor:
        return self.linear(joined_RJ) + position_R[:, None]

    def flops(self, num_impressions: int, num_candidates: int) -> int:
        return 0


def test_sequence_features_come_before_context_features() -> None:
    ranker, batch = Probe().eval(), make_rank_batch(TINY, 1, [4], [3])
    posts, context = ranker.post_encoder(batch.candidates), ranker.context_encoder(batch.context_NC)
    assert ranker.width == posts.shape[1] + context.shape[1]
    want = ranker.score(torch.cat([posts, context], -1), batch.position_N)
    assert torch.equal(ranker.rank(batch), want)


def test_a_target_is_scored_as_the_candidate_that_it_was() -> None:
    ranker, batch = Probe().eval(), make_train_batch(TINY, 1, [6, 2])
    rows = batch.target_R
    request = dataclasses.replace(
        make_rank_batch(TINY, 2, [0], [len(rows)]),
        candidates={n: c[rows] for n, c in batch.impressions.features.items()},
        context_NC=batch.context_RC,
        position_N=batch.position_R,
    )
    torch.testing.assert_close(ranker(batch).logits_RK, ranker.rank(request))


def test_rows_without_context_train_nothing() -> None:
    output = Probe()(make_train_batch(TINY, 1, [20], target_share=0.3))
    assert output.auxiliary_AK.shape[0] > 0
    assert not output.auxiliary_AK.any()
    assert not output.auxiliary_AK.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_ids_drop_out_in_training_alone(training: bool) -> None:
    ranker, batch = Probe(0.9).train(training), make_rank_batch(TINY, 1, [4], [30])
    torch.manual_seed(0)
    assert torch.equal(ranker.rank(batch), ranker.rank(batch)) != training
