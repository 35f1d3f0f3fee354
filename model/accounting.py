# SPDX-License-Identifier: Apache-2.0
"""What a part of a ranker costs: operations, counted from its shapes.

Counts matrix products (a multiply-add is two operations); norms, activations and look-ups are left
out, as torch.utils.flop_counter leaves them out. Benchmarks divide by these to print a share of
the hardware's limit. Knows layers and their configuration; a ranker adds up its own parts.
"""

from __future__ import annotations

import torch
from torch import nn

from model.config import FeedSRConfig
from model.layers.stack import make_layer


def linear_flops(module: nn.Module, rows: int) -> int:
    """Operations of every linear layer below `module` on so many rows."""
    layers = [m for m in module.modules() if isinstance(m, nn.Linear)]
    return sum(2 * rows * layer.in_features * layer.out_features for layer in layers)


def attention_pairs(num_impressions: int, num_candidates: int) -> tuple[int, int]:
    """Query-key pairs of the context (plain causal, the most there are) and the candidates."""
    tokens = 2 * num_impressions
    return tokens * (tokens + 1) // 2, num_candidates * (tokens + 1)


def layer_flops(config: FeedSRConfig, num_impressions: int, num_candidates: int) -> int:
    """Operations of one whole layer (not a last one) on a request, or on a training sequence."""
    pairs = sum(attention_pairs(num_impressions, num_candidates))
    rows = 2 * num_impressions + num_candidates
    with torch.device("meta"):
        layer = make_layer(config, longest=rows)
    return linear_flops(layer, rows) + 4 * config.width * pairs


def hstu_layers_per_block(
    config: FeedSRConfig, num_impressions: int, num_candidates: int = 0
) -> float:
    """How many HSTU layers cost what one transformer block of `config` does.

    A study at matched FLOPs gives an HSTU the nearest whole number of `config.layers` times this.
    Every token is taken to see all before it, as in plain causal attention; the fewer it sees, the
    nearer the figure is to that of short histories.

    Args:
        config: gives the block's shape; its own `block` is not looked at.
        num_impressions: length of a history, at least 1 (one that is typical of the log).
        num_candidates: candidates beside it; 0 is training.

    Raises:
        ValueError: there is no token to count.
    """
    if num_impressions < 1:
        raise ValueError(f"a history of {num_impressions} impressions: want at least 1 to compare")
    costs = {"num_impressions": num_impressions, "num_candidates": num_candidates}
    block = layer_flops(config.model_copy(update={"block": "transformer"}), **costs)
    plain = {"block": "hstu", "attention": "softmax", "attention_gate": False}
    return block / layer_flops(config.model_copy(update=plain), **costs)
