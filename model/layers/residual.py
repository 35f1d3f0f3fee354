# SPDX-License-Identifier: Apache-2.0
"""How a branch joins the stream: five ways to add, one signature.

Each takes the stream and a branch, both `[..., D]`, and gives the next stream, in place where no
gradient is wanted. Knows neither what the branch computed nor where a LayerNorm stands.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.config import FeedSRConfig

LAYER_SCALE = 0.1
"""Where LayerScale starts in networks of up to 18 layers (arXiv 2103.17239, section 2)."""


class Add(nn.Module):
    """`x + branch`."""

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """The next stream."""
        return x + branch if torch.is_grad_enabled() else x.add_(branch)


class RescaleAndAdd(nn.Module):
    """`x + scale * branch` with one learned scale (Feed-SR, arXiv 2602.12354).

    From 0 it is ReZero (arXiv 2003.04887): every branch starts silent.
    """

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(initial))

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """The next stream."""
        return _add_scaled(x, self.scale, branch)


class LayerScale(nn.Module):
    """`x + scale * branch` with a learned scale for each channel (arXiv 2103.17239, section 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_D = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """The next stream."""
        return _add_scaled(x, self.scale_D, branch)


class GatedAdd(nn.Module):
    """`x + sigmoid(W x + b) * branch`: LiRank's dense gating (arXiv 2402.06859) on the branch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, width)

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """The next stream."""
        return _add_scaled(x, self.gate(x).sigmoid(), branch)


def make_residual(config: FeedSRConfig) -> nn.Module:
    """The addition of a configuration, with weights of its own."""
    if config.residual == "plain":
        return Add()
    if config.residual == "layer_scale":
        return LayerScale(config.width)
    if config.residual == "gated":
        return GatedAdd(config.width)
    return RescaleAndAdd(0.0 if config.residual == "rezero" else config.residual_scale)


def _add_scaled(x: Tensor, scale: Tensor, branch: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        return x + scale * branch
    return x.addcmul_(scale, branch)
