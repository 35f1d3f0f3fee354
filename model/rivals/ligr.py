# SPDX-License-Identifier: Apache-2.0
"""LiGR: gated transformer layers over the history, then attention among a request's candidates.

By design a candidate's score depends on the other candidates: the house's law of candidate
isolation does not hold here, and a score means something for its set only. It does not depend on
the set's order, and requests in one batch stay apart. A set in training is a request: the targets
that were served to a member at one time. (Those of a later request of the same day would tell of
feedback that this one could not know.) On a log that serves posts one at a time each target is a
set of its own, and training says nothing of sets.
(arXiv 2502.03417, section 3. Its semantic ids are left out: the features are the spec's.)

Shape suffixes: R targets; A auxiliary impressions; N candidates; S requests; D width of a token; C
context columns; K tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from feature_repo.spec import Spec
from model import accounting
from model.batch import Impressions, RankBatch, TrainBatch
from model.heads import PositionOffsets, TaskHead, output_layer
from model.layers.residual import GatedAdd
from model.ranker import Output, Ranker
from model.rivals.config import LiGRConfig
from model.rivals.history import HistoryTransformer, sequence_of
from model.rivals.sets import SetLayer, Sets


class LiGR(Ranker):
    """The set-wise ranker."""

    config: LiGRConfig

    def __init__(self, config: LiGRConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.history = HistoryTransformer(config, spec, lambda: GatedAdd(config.width))
        joined = config.width + self.context_encoder.width
        self.set_tokens = nn.Linear(joined, config.width)
        self.set_layers = nn.ModuleList(
            SetLayer(config.width, config.heads, config.mlp_ratio, config.dropout)
            for _ in range(config.set_layers)
        )
        self.set_norm = nn.LayerNorm(config.width)
        self.head = TaskHead(config.head, joined, spec.tasks)
        self.offsets = PositionOffsets(config.offset_positions, len(spec.tasks))
        self.auxiliary = output_layer(config.width, spec.tasks)

    def forward(self, batch: TrainBatch) -> Output:
        """Logits of the targets, and of the auxiliary impressions on the history's output alone."""
        rows = torch.cat([batch.target_R, batch.auxiliary_A])
        state = self.history.of_impressions(batch.impressions, rows)
        state_RD, state_AD = state.split([len(batch.target_R), len(batch.auxiliary_A)])
        set_R = request_of(batch.impressions, batch.target_R)
        logits = self._fuse(state_RD, batch.context_RC, set_R) + self.offsets(batch.position_R)
        return Output(logits, self.auxiliary(state_AD))

    def rank(self, batch: RankBatch) -> Tensor:
        """Logits `[N, K]`; those of a request belong together."""
        count_S = batch.cu_candidates.diff().long()
        set_N = torch.arange(len(count_S), device=count_S.device).repeat_interleave(count_S)
        logits = self._fuse(self.history.of_candidates(batch), batch.context_NC, set_N)
        return logits + self.offsets(batch.position_N)

    def flops(self, num_impressions: int, num_candidates: int) -> int:
        """Floating-point operations of ranking one request (a multiply-add is two)."""
        parts = (self.head, self.context_encoder, self.set_tokens, self.set_layers)
        fused = sum(accounting.linear_flops(part, num_candidates) for part in parts)
        pairs = num_candidates**2 * self.config.set_layers
        history = self.history.flops(num_impressions, num_candidates)
        return history + fused + 4 * self.config.width * pairs

    def _fuse(self, state_RD: Tensor, context_RC: Tensor, set_R: Tensor) -> Tensor:
        """The candidates, joined with their context, over each other, and to logits `[R, K]`."""
        context = self.context_encoder(context_RC)
        tokens_RD = self.set_tokens(torch.cat([state_RD, context], -1))
        sets = Sets.grouped(set_R)
        for layer in self.set_layers:
            tokens_RD = layer(tokens_RD, sets)
        return self.head(torch.cat([self.set_norm(tokens_RD), context], -1))


def request_of(impressions: Impressions, row_R: Tensor) -> Tensor:
    """int64 `[R]`, equal for the rows of a sequence that were served at one time: one request's.

    Raises:
        ValueError: the batch does not say when its impressions were served.
    """
    if impressions.time_M is None:
        raise ValueError("LiGR's sets want Impressions.time_M, and this batch has none")
    sequence_R = sequence_of(impressions.cu_seqlens, row_R)
    both_R2 = torch.stack([sequence_R, impressions.time_M[row_R]], 1)
    return both_R2.unique(dim=0, return_inverse=True)[1]
