# SPDX-License-Identifier: Apache-2.0
"""Candidates appended to a history of one token an impression, history computed once a request.

Efficient user history modelling with amortised inference (arXiv 2412.06924), after M-FALCON (arXiv
2402.17152), from which it departs twice: there a candidate sees itself beside the history, here it
does not; there the history interleaves posts and actions, here it is one token an impression.
Beside Feed-SR it shows what two tokens an impression and a candidate's own key bring: the rest of
the layers, the late fusion and the head are the same.

Shape suffixes: R targets; A auxiliary impressions; N candidates; D width of a token; C context
columns; K tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from feature_repo.spec import Spec
from model import accounting
from model.batch import RankBatch, TrainBatch
from model.heads import PositionOffsets, TaskHead, output_layer
from model.layers.residual import RescaleAndAdd
from model.ranker import Output, Ranker
from model.rivals.config import AppendedConfig
from model.rivals.history import HistoryTransformer


class Appended(Ranker):
    """The ranker whose candidates attend to the history, not to each other or to themselves.

    The history is one token an impression; M-FALCON's candidates see themselves.
    """

    config: AppendedConfig

    def __init__(self, config: AppendedConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.history = HistoryTransformer(config, spec, lambda: RescaleAndAdd(1.0))
        joined = config.width + self.context_encoder.width
        self.head = TaskHead(config.head, joined, spec.tasks)
        self.offsets = PositionOffsets(config.offset_positions, len(spec.tasks))
        self.auxiliary = output_layer(config.width, spec.tasks)

    def forward(self, batch: TrainBatch) -> Output:
        """Logits of the targets, and of the auxiliary impressions on the sequence output alone."""
        rows = torch.cat([batch.target_R, batch.auxiliary_A])
        state = self.history.of_impressions(batch.impressions, rows)
        state_RD, state_AD = state.split([len(batch.target_R), len(batch.auxiliary_A)])
        logits = self._fuse(state_RD, batch.context_RC, batch.position_R)
        return Output(logits, self.auxiliary(state_AD))

    def rank(self, batch: RankBatch) -> Tensor:
        """Logits `[N, K]`: every request's candidates over its one history, in one forward."""
        state_ND = self.history.of_candidates(batch)
        return self._fuse(state_ND, batch.context_NC, batch.position_N)

    def flops(self, num_impressions: int, num_candidates: int) -> int:
        """Floating-point operations of ranking one request (a multiply-add is two)."""
        parts = (self.head, self.context_encoder)
        fused = sum(accounting.linear_flops(part, num_candidates) for part in parts)
        return fused + self.history.flops(num_impressions, num_candidates)

    def _fuse(self, state_RD: Tensor, context_RC: Tensor, position_R: Tensor) -> Tensor:
        context = self.context_encoder(context_RC)
        return self.head(torch.cat([state_RD, context], -1)) + self.offsets(position_R)
