# SPDX-License-Identifier: Apache-2.0
"""The two-tower DCN-V2 ranker that Feed-SR replaced: the baseline to beat, with the same features.

One tower of cross network and hidden layers for the passive tasks and one for the active.

Shape suffixes: R rows; J joined width.
"""

from __future__ import annotations

from torch import Tensor

from feature_repo.spec import Spec
from model import accounting
from model.config import DCNv2Config
from model.heads import PositionOffsets, TaskHead
from model.pointwise import PointwiseRanker


class DCNv2(PointwiseRanker):
    """The pointwise ranker."""

    config: DCNv2Config

    def __init__(self, config: DCNv2Config, spec: Spec) -> None:
        super().__init__(config, spec, config.embedding_dropout)
        self.head = TaskHead(config.head, self.width, spec.tasks)
        self.offsets = PositionOffsets(config.offset_positions, len(spec.tasks))

    def score(self, joined_RJ: Tensor, position_R: Tensor) -> Tensor:
        """The towers' logits, and the offset of the position."""
        return self.head(joined_RJ) + self.offsets(position_R)

    def flops(self, num_impressions: int, num_candidates: int) -> int:
        """Floating-point operations of ranking one request; the history costs nothing."""
        return accounting.linear_flops(self, num_candidates)
