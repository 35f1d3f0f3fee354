# SPDX-License-Identifier: Apache-2.0
"""LiRank: residual cross layers with attention beside gated hidden layers, calibrated inside.

Pointwise like the DCN-V2 it grew out of. (arXiv 2402.06859: Residual DCN 3.3, isotonic calibration
3.4, dense gating 3.5. Its history encoder is `model.rivals.transact`.)

Shape suffixes: R rows; J joined width; F fields of the low-rank features; W width of a body.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from feature_repo.spec import Spec
from model import accounting
from model.heads import PositionOffsets, SeparateBodies, TaskTowers, groups_of
from model.isotonic import IsotonicCalibration
from model.pointwise import PointwiseRanker
from model.rivals.config import LiRankConfig


class ResidualCrossLayer(nn.Module):
    """DCN-V2's low-rank cross layer with attention between its two matrices (section 3.3).

    The low-rank mapping is there three times, for query, key and value; the attended values are
    added to the values themselves. A candidate attends within its own features only.
    """

    def __init__(self, width: int, config: LiRankConfig) -> None:
        super().__init__()
        self.fields = config.fields
        self.scale = 1 / (config.temperature * math.sqrt(config.rank // config.fields))
        self.down = nn.Linear(width, 3 * config.rank, bias=False)
        self.up = nn.Linear(config.rank, width)

    def forward(self, x0_RJ: Tensor, x_RJ: Tensor) -> Tensor:
        """The features as they came in and the layer before's, both `[R, J]`, to `[R, J]`."""
        query, key, value = self.down(x_RJ).unflatten(-1, (3, self.fields, -1)).unbind(1)
        weight_RFF = (self.scale * query @ key.mT).softmax(-1)
        mixed = value + weight_RFF.to(value.dtype) @ value
        return x0_RJ * self.up(mixed.flatten(1)) + x_RJ


class GatedLayer(nn.Module):
    """A hidden layer whose every output has a gate of its own (dense gating, section 3.5)."""

    def __init__(self, width_in: int, width: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, width)
        self.gate = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_RJ: Tensor) -> Tensor:
        """`[R, J]` to `[R, W]`."""
        hidden = self.linear(x_RJ).relu()
        return self.dropout(hidden * self.gate(hidden).sigmoid())


class LiRankBody(nn.Module):
    """Residual cross layers beside gated hidden layers, joined."""

    def __init__(self, width: int, config: LiRankConfig) -> None:
        super().__init__()
        self.cross = nn.ModuleList(ResidualCrossLayer(width, config) for _ in range(config.cross))
        widths = [width, *[config.width] * config.hidden]
        self.hidden = nn.Sequential(
            *(GatedLayer(n, config.width, config.dropout) for n in widths[:-1])
        )
        self.width = width + config.width

    def forward(self, x_RJ: Tensor) -> Tensor:
        """`[R, J]` to `[R, W]`."""
        crossed = x_RJ
        for layer in self.cross:
            crossed = layer(x_RJ, crossed)
        return torch.cat([crossed, self.hidden(x_RJ)], -1)


class LiRank(PointwiseRanker):
    """The pointwise ranker, calibrated in training."""

    config: LiRankConfig

    def __init__(self, config: LiRankConfig, spec: Spec) -> None:
        super().__init__(config, spec, config.embedding_dropout)
        bodies = [LiRankBody(self.width, config) for _ in groups_of(spec.tasks)]
        self.head = TaskTowers(SeparateBodies(bodies, bodies[0].width), spec.tasks)
        end = config.calibration_range
        self.calibration = IsotonicCalibration(
            len(spec.tasks), config.calibration_buckets, -end, end
        )
        self.offsets = PositionOffsets(config.offset_positions, len(spec.tasks))

    def score(self, joined_RJ: Tensor, position_R: Tensor) -> Tensor:
        """The towers' logits, calibrated, and the offset of the position."""
        return self.calibration(self.head(joined_RJ)) + self.offsets(position_R)

    def flops(self, num_impressions: int, num_candidates: int) -> int:
        """Floating-point operations of ranking one request; the history costs nothing."""
        layers = self.config.cross * len(groups_of(self.spec.tasks))
        attention = 4 * self.config.fields * self.config.rank * layers
        return accounting.linear_flops(self, num_candidates) + num_candidates * attention
