# SPDX-License-Identifier: Apache-2.0
"""What ranking one request costs: operations and bytes, counted from the model's shapes.

Counts matrix products (a multiply-add is two operations); norms, activations and look-ups are left
out, as torch.utils.flop_counter leaves them out. Benchmarks divide by these to print a share of
the hardware's limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

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
        + linear_flops(last.attention.key_value, tokens),
        "attention": per_pair * (full * (pairs + pairs_N) + pairs_N),
        "head": linear_flops(model.head, num_candidates)
        + linear_flops(model.context_encoder, num_candidates),
    }


def parameter_bytes(model: nn.Module) -> int:
    """Bytes of the weights and of the statistics kept with them."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


def cache_bytes(model: FeedSR, num_impressions: int) -> int:
    """Bytes of the keys and values of one history in every layer."""
    size = model.norm.weight.element_size()
    return 2 * model.config.layers * 2 * num_impressions * model.config.width * size


def activation_bytes(model: FeedSR, num_impressions: int, num_candidates: int) -> int:
    """Bytes of the tensors that live at the widest point of a block's forward, without autograd.

    The stream, its norm, and the larger of query, key, value and attention's output, or the MLP's
    hidden layer with its activation.
    """
    block = model.layers[0]
    up = block.mlp.up.out_features
    width = model.config.width
    widest = 2 * width + max(4 * width, up + block.mlp.hidden)
    tokens = 2 * num_impressions + num_candidates
    return tokens * widest * model.norm.weight.element_size()
