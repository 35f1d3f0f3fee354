# SPDX-License-Identifier: Apache-2.0
"""What pointwise rankers share: a candidate's sequence and context features, and no history.

The member's counters carry the history. What a ranker makes of the joined features is its own.

Shape suffixes: R rows; J joined width; K tasks; A auxiliary impressions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from feature_repo.spec import Spec
from model.batch import RankBatch, TrainBatch
from model.config import RankerConfig
from model.encoders import FeatureEncoder
from model.ranker import Output, Ranker


class PointwiseRanker(Ranker):
    """A ranker of joined features; `width` is J.

    Args:
        config: the ranker's.
        spec: the features.
        embedding_dropout: dropout on the embeddings of hashed ids.
    """

    def __init__(self, config: RankerConfig, spec: Spec, embedding_dropout: float) -> None:
        super().__init__(config, spec)
        self.post_encoder = FeatureEncoder(
            spec.with_role("sequence"), embedding_dropout=embedding_dropout
        )
        self.width = self.post_encoder.width + self.context_encoder.width

    @abstractmethod
    def score(self, joined_RJ: Tensor, position_R: Tensor) -> Tensor:
        """Joined features `[R, J]` shown at feed positions int64 `[R]` to logits `[R, K]`."""

    def forward(self, batch: TrainBatch) -> Output:
        """Logits of the targets `[R, K]`; the auxiliary ones are zeros `[A, K]` without a gradient.

        There is no sequence output to train on rows that have no context features.
        """
        features = {n: column[batch.target_R] for n, column in batch.impressions.features.items()}
        logits = self.score(self._join(features, batch.context_RC), batch.position_R)
        return Output(logits, logits.new_zeros(len(batch.auxiliary_A), len(self.spec.tasks)))

    def rank(self, batch: RankBatch) -> Tensor:
        """Logits `[N, K]` of the candidates; the histories are not looked at."""
        return self.score(self._join(batch.candidates, batch.context_NC), batch.position_N)

    def _join(self, features: Mapping[str, Tensor], context_RC: Tensor) -> Tensor:
        return torch.cat([self.post_encoder(features), self.context_encoder(context_RC)], -1)
