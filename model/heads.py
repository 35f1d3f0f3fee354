# SPDX-License-Identifier: Apache-2.0
"""Multi-task heads: fused features to one logit a task, tasks in groups with a tower of their own.

The five heads that the paper compares. Knows widths and groups of tasks; not where the features
come from.

Shape suffixes: R rows; J joined (fused) width; W width of a body; K tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from feature_repo.kinds import UNKNOWN, Task
from model.config import HeadConfig

OUTPUT_STD = 0.01
"""Output layers start small, so that a new model predicts the tasks' priors."""


class CrossNetwork(nn.Module):
    """Low-rank cross layers: `x0 * (U V x + b) + x` (DCN-V2, arXiv 2008.13535, section 4.2)."""

    def __init__(self, width: int, layers: int, rank: int) -> None:
        super().__init__()
        self.width = width
        rank = min(rank, width)
        self.down = nn.ModuleList(nn.Linear(width, rank, bias=False) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(rank, width) for _ in range(layers))

    def forward(self, x_RJ: Tensor) -> Tensor:
        """`[R, J]` to `[R, J]`."""
        x = x_RJ
        for down, up in zip(self.down, self.up, strict=True):
            x = x_RJ * up(down(x)) + x
        return x


class HiddenLayers(nn.Sequential):
    """Linear layers with ReLU and dropout after each."""

    def __init__(self, width: int, config: HeadConfig) -> None:
        layers: list[nn.Module] = []
        for i in range(config.hidden):
            layers += [
                nn.Linear(width if i == 0 else config.width, config.width),
                nn.ReLU(),
                nn.Dropout(config.dropout),
            ]
        super().__init__(*layers)
        self.width = config.width


class ParallelDCN(nn.Module):
    """Cross network beside hidden layers, joined."""

    def __init__(self, width: int, config: HeadConfig) -> None:
        super().__init__()
        self.cross = CrossNetwork(width, config.cross, config.rank)
        self.hidden = HiddenLayers(width, config)
        self.width = self.cross.width + self.hidden.width

    def forward(self, x_RJ: Tensor) -> Tensor:
        """`[R, J]` to `[R, W]`."""
        return torch.cat([self.cross(x_RJ), self.hidden(x_RJ)], -1)


class StackedDCN(nn.Module):
    """Cross network, then hidden layers."""

    def __init__(self, width: int, config: HeadConfig) -> None:
        super().__init__()
        self.cross = CrossNetwork(width, config.cross, config.rank)
        self.hidden = HiddenLayers(width, config)
        self.width = self.hidden.width

    def forward(self, x_RJ: Tensor) -> Tensor:
        """`[R, J]` to `[R, W]`."""
        return self.hidden(self.cross(x_RJ))


class Through(nn.Module):
    """The features as they are: the body of the linear head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x_RJ: Tensor) -> Tensor:
        """`[R, J]`, unchanged."""
        return x_RJ


class GatedExperts(nn.Module):
    """Experts that all groups share, mixed for each group by its gate.

    MMoE (Ma et al., KDD 2018) has a gate for each task; here the tasks of a group share one, as
    they share a tower's body. Dropout falls on the gates' probabilities, which are then made to sum
    to one again: without it a group settles on one expert early. A row whose gates all drop is
    mixed to zeros.
    """

    def __init__(self, width: int, groups: int, config: HeadConfig) -> None:
        super().__init__()
        self.experts = nn.ModuleList(HiddenLayers(width, config) for _ in range(config.experts))
        self.gates = nn.ModuleList(nn.Linear(width, config.experts) for _ in range(groups))
        self.dropout = nn.Dropout(config.gate_dropout)
        self.width = config.width

    def forward(self, x_RJ: Tensor) -> list[Tensor]:
        """`[R, J]` to one `[R, W]` for each group."""
        expert_REW = torch.stack([expert(x_RJ) for expert in self.experts], 1)
        mixed = []
        for gate in self.gates:
            weight_RE = self.dropout(gate(x_RJ).softmax(-1))
            weight_RE = weight_RE / weight_RE.sum(-1, keepdim=True).clamp_min(1e-6)
            mixed.append((weight_RE.to(expert_REW.dtype).unsqueeze(-1) * expert_REW).sum(1))
        return mixed


class SeparateBodies(nn.ModuleList):
    """A body for each group, sharing nothing; all of one `width`."""

    def __init__(self, bodies: Sequence[nn.Module], width: int) -> None:
        super().__init__(bodies)
        self.width = width

    def forward(self, x_RJ: Tensor) -> list[Tensor]:
        """`[R, J]` to one `[R, W]` for each group."""
        return [body(x_RJ) for body in self]


def _body(width: int, config: HeadConfig) -> Through | HiddenLayers | StackedDCN | ParallelDCN:
    if config.name == "linear":
        return Through(width)
    if config.name == "mlp":
        return HiddenLayers(width, config)
    return (StackedDCN if config.name == "stacked_dcn" else ParallelDCN)(width, config)


def groups_of(tasks: tuple[Task, ...]) -> list[list[int]]:
    """The tasks of each group that there is, as indices."""
    groups = [[i for i, t in enumerate(tasks) if t.group == g] for g in ("passive", "active")]
    return [group for group in groups if group]


class TaskTowers(nn.Module):
    """A tower for each group of tasks over that group's body, logits in the spec's order."""

    def __init__(self, bodies: SeparateBodies | GatedExperts, tasks: tuple[Task, ...]) -> None:
        super().__init__()
        groups = groups_of(tasks)
        self.bodies = bodies
        self.towers = nn.ModuleList(
            output_layer(bodies.width, tuple(tasks[i] for i in group)) for group in groups
        )
        order = torch.tensor([i for group in groups for i in group]).argsort()
        self.order_K: Tensor
        self.register_buffer("order_K", order, persistent=False)

    def forward(self, x_RJ: Tensor) -> Tensor:
        """Fused features `[R, J]` to logits `[R, K]`."""
        bodies = self.bodies(x_RJ)
        logits = [tower(body) for tower, body in zip(self.towers, bodies, strict=True)]
        return torch.cat(logits, -1)[:, self.order_K]


class TaskHead(TaskTowers):
    """Bodies as configured, and their towers."""

    def __init__(self, config: HeadConfig, width: int, tasks: tuple[Task, ...]) -> None:
        super().__init__(_bodies(config, width, len(groups_of(tasks))), tasks)


def _bodies(config: HeadConfig, width: int, groups: int) -> SeparateBodies | GatedExperts:
    if config.name == "mmoe":
        return GatedExperts(width, groups, config)
    bodies = [_body(width, config) for _ in range(groups)]
    return SeparateBodies(bodies, bodies[0].width)


class PositionOffsets(nn.Module):
    """Learned logit offsets of each task for the first feed positions; later ones have none."""

    def __init__(self, positions: int, tasks: int) -> None:
        super().__init__()
        self.offset_PK = nn.Parameter(torch.zeros(positions, tasks))

    def forward(self, position_R: Tensor) -> Tensor:
        """Feed positions `[R]`, UNKNOWN = -1, to offsets `[R, K]`."""
        count = self.offset_PK.shape[0]
        known = (position_R > UNKNOWN) & (position_R < count)
        padded = torch.cat([self.offset_PK, self.offset_PK.new_zeros(1, self.offset_PK.shape[1])])
        return padded[torch.where(known, position_R.long(), count)]


def output_layer(width: int, tasks: tuple[Task, ...]) -> nn.Linear:
    """A linear layer to one logit a task that starts at the tasks' priors."""
    layer = nn.Linear(width, len(tasks))
    nn.init.normal_(layer.weight, std=OUTPUT_STD)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([math.log(t.prior / (1 - t.prior)) for t in tasks]))
    return layer
