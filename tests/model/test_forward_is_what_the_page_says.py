# SPDX-License-Identifier: Apache-2.0
"""Feed-SR against its description: docs/known-time.md written out token by token, nothing packed.

The oracle shares the model's weights and nothing of its arrangement: dense masks from `known`,
positions as the page gives them, rotation by complex numbers, one sequence at a time, every layer
whole.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from model import FeedSRConfig, HeadConfig, build_ranker
from model.batch import TrainBatch
from model.feed_sr import FeedSR
from model.layers.block import Block
from tests.builders import TINY, Pattern, make_train_batch

CONFIG = FeedSRConfig(
    width=16, layers=3, heads=2, head=HeadConfig(width=8, rank=4), residual_scale=0.8
)


def sees(query: int, key: int, known: list[int]) -> bool:
    """Token 2 j is the post of impression j, token 2 j + 1 its action."""
    j, own = divmod(query, 2)
    return key < 2 * known[j] or key == query or (own == 1 and key == 2 * j)


def rotated(x_TC: Tensor, positions: list[int], base: float) -> Tensor:
    half = x_TC.shape[-1] // 2
    frequency = torch.tensor([base ** (-i / half) for i in range(half)], dtype=x_TC.dtype)
    angle = torch.tensor(positions, dtype=x_TC.dtype)[:, None] * frequency
    turned = torch.complex(x_TC[:, :half], x_TC[:, half:]) * torch.polar(
        torch.ones_like(angle), angle
    )
    return torch.cat([turned.real, turned.imag], -1)


def attended(block: Block, x_TD: Tensor, known: list[int], base: float) -> Tensor:
    x = block.attention_norm(x_TD)
    heads, width = block.attention.heads, x.shape[-1] // block.attention.heads
    key, value = block.attention.key_value(x).chunk(2, -1)
    query = block.attention.query(x)
    positions = [2 * known[t // 2] + t % 2 for t in range(len(x))]
    mask = torch.tensor([[sees(q, k, known) for k in range(len(x))] for q in range(len(x))])
    outputs = []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        q, k = rotated(query[:, part], positions, base), rotated(key[:, part], positions, base)
        scores = (q @ k.T / math.sqrt(width)).masked_fill(~mask, -torch.inf)
        outputs.append(scores.softmax(-1) @ value[:, part])
    return block.attention.out(torch.cat(outputs, -1))


def oracle_states(ranker: FeedSR, batch: TrainBatch) -> Tensor:
    """The normalised output at every post token `[M, D]`, one sequence at a time."""
    imp = batch.impressions
    posts = ranker.post_tokens(imp.features)
    actions = posts + ranker.action_tokens(imp.actions)
    states = []
    for start, stop in zip(imp.cu_seqlens[:-1].tolist(), imp.cu_seqlens[1:].tolist(), strict=True):
        known = imp.known_M[start:stop].tolist()
        tokens = [t for j in range(start, stop) for t in (posts[j], actions[j])]
        x = torch.stack(tokens) if tokens else posts[:0]
        for block in ranker.layers if tokens else []:
            x = x + block.attention_add.scale * attended(block, x, known, CONFIG.rope_base)
            x = x + block.mlp_add.scale * block.mlp(block.mlp_norm(x))
        states.append(x[::2])
    return ranker.norm(torch.cat(states))


@pytest.mark.law
@pytest.mark.parametrize("pattern", ["causal", "day"])
def test_forward_is_what_the_page_says(pattern: Pattern) -> None:
    ranker = build_ranker(CONFIG, TINY, seed=2).double().eval()
    assert isinstance(ranker, FeedSR)
    batch = make_train_batch(TINY, 4, [9, 0, 1, 14], pattern)
    with torch.inference_mode():
        output = ranker(batch)
        states = oracle_states(ranker, batch)
        context = ranker.context_encoder(batch.context_RC)
        fused = torch.cat([states[batch.target_R], context], -1)
        logits = ranker.head(fused) + ranker.offsets(batch.position_R)
        auxiliary = ranker.auxiliary(states[batch.auxiliary_A])
    torch.testing.assert_close(output.logits_RK, logits, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(output.auxiliary_AK, auxiliary, rtol=1e-10, atol=1e-10)
