# SPDX-License-Identifier: Apache-2.0
"""What ranking one request costs: operations and bytes, counted from the model's shapes.

Counts matrix products (a multiply-add is two operations); norms, activations and look-ups are left
out, as torch.utils.flop_counter leaves them out. Benchmarks divide by these to print a share of
the hardware's limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from model.config import FeedSRConfig
from model.layers.stack import make_layer

if TYPE_CHECKING:
    from model.feed_sr import FeedSR


def linear_flops(module: nn.Module, rows: int) -> int:
    """Operations of every linear layer below `module` on so many rows."""
    layers = [m for m in module.modules() if isinstance(m, nn.Linear)]
    return sum(2 * rows * layer.in_features * layer.out_features for layer in layers)


def attention_pairs(num_impressions: int, num_candidates: int) -> tuple[int, int]:
    """Query-key pairs of the context (plain causal, the most there are) and the candidates."""
    tokens = 2 * num_impressions
    return tokens * (tokens + 1) // 2, num_candidates * (tokens + 1)


def flops(model: FeedSR, num_impressions: int, num_candidates: int) -> dict[str, int]:
    """Operations of ranking one request, by part; of the last layer's context, K and V only."""
    tokens = 2 * num_impressions
    pairs, pairs_N = attention_pairs(num_impressions, num_candidates)
    per_pair, full = 4 * model.config.width, model.config.layers - 1
    *first, last = model.layers
    return {
        "tokens": linear_flops(model.post_tokens, num_impressions + num_candidates)
        + linear_flops(model.action_tokens, num_impressions),
        "blocks": sum(linear_flops(block, tokens + num_candidates) for block in first)
        + linear_flops(last, num_candidates)
        + linear_flops(last.key_value_layer(), tokens),
        "attention": per_pair * (full * (pairs + pairs_N) + pairs_N),
        "head": linear_flops(model.head, num_candidates)
        + linear_flops(model.context_encoder, num_candidates),
    }


def training_flops(model: FeedSR, num_impressions: int, num_targets: int, pairs: int) -> int:
    """Operations of the forward that training runs on packed sequences.

    Args:
        model: the ranker.
        num_impressions: of all sequences.
        num_targets: rows that go through the head; of the last layer they alone are finished, which
            is not taken off here.
        pairs: how many keys the context tokens see, summed.
    """
    layers = sum(linear_flops(layer, 2 * num_impressions) for layer in model.layers)
    tokens = linear_flops(model.post_tokens, num_impressions)
    tokens += linear_flops(model.action_tokens, num_impressions)
    fused = linear_flops(model.head, num_targets) + linear_flops(model.context_encoder, num_targets)
    attention = 4 * model.config.width * model.config.layers * pairs
    return layers + tokens + fused + attention


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


def cache_bytes(model: FeedSR, num_impressions: int) -> int:
    """Bytes of the keys and values of one history in every layer."""
    size = _element_size(model)
    return 2 * model.config.layers * 2 * num_impressions * model.config.width * size


def activation_bytes(model: FeedSR, num_impressions: int, num_candidates: int) -> int:
    """Bytes of the tensors that live at the widest point of a layer's forward, without autograd.

    A tile of pointwise scores, which does not grow with the request, is left out.
    """
    tokens = 2 * num_impressions + num_candidates
    return tokens * model.layers[0].widest() * _element_size(model)


def _element_size(model: FeedSR) -> int:
    """Bytes of a number in the stream."""
    return next(model.blocks.parameters()).element_size()
