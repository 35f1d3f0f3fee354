# SPDX-License-Identifier: Apache-2.0
"""The two-tower DCN-V2 ranker that Feed-SR replaced: the baseline to beat, with the same features.

Pointwise: a candidate's sequence features and context features, one tower of cross network and
hidden layers for the passive tasks and one for the active. It sees no history; the member's
counters carry it.

Shape suffixes: R rows; K tasks; A auxiliary impressions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from feature_repo.spec import Spec
from model import accounting
from model.batch import RankBatch, TrainBatch
from model.config import DCNv2Config
from model.encoders import FeatureEncoder
from model.heads import PositionOffsets, TaskHead
from model.ranker import Output, Ranker


class DCNv2(Ranker):
    """The pointwise ranker."""

    config: DCNv2Config

    def __init__(self, config: DCNv2Config, spec: Spec) -> None:
        super().__init__(config, spec)
        self.post_encoder = FeatureEncoder(
            spec.with_role("sequence"), embedding_dropout=config.embedding_dropout
        )
        joined = self.post_encoder.width + self.context_encoder.width
        self.head = TaskHead(config.head, joined, spec.tasks)
        self.offsets = PositionOffsets(config.offset_positions, len(spec.tasks))

    def forward(self, batch: TrainBatch) -> Output:
        """Logits of the targets `[R, K]`; the auxiliary ones are zeros `[A, K]` without a gradient.

        There is no sequence output to train on rows that have no context features.
        """
        features = {n: column[batch.target_R] for n, column in batch.impressions.features.items()}
        logits = self._logits(features, batch.context_RC, batch.position_R)
        return Output(logits, logits.new_zeros(len(batch.auxiliary_A), len(self.spec.tasks)))

    def rank(self, batch: RankBatch) -> Tensor:
        """Logits `[N, K]` of the candidates; the histories are not looked at."""
        return self._logits(batch.candidates, batch.context_NC, batch.position_N)

    def flops(self, num_impressions: int, num_candidates: int) -> int:
        """Floating-point operations of ranking one request; the history costs nothing."""
        return accounting.linear_flops(self, num_candidates)

    def parameter_bytes(self) -> int:
        """Bytes of the weights and buffers."""
        return accounting.parameter_bytes(self)

    def _logits(
        self, features: Mapping[str, Tensor], context_RC: Tensor, position_R: Tensor
    ) -> Tensor:
        joined = torch.cat([self.post_encoder(features), self.context_encoder(context_RC)], -1)
        return self.head(joined) + self.offsets(position_R)
