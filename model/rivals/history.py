# SPDX-License-Identifier: Apache-2.0
"""A transformer over one token an impression, with candidates that attend to the history alone.

The candidate appended to the history, as cross-attention and computed once a request (arXiv
2412.06924, which reformulates M-FALCON of arXiv 2402.17152): the history attends to itself, and in
every layer a candidate attends to the history's keys and values, to no other candidate and not to
itself. In its own place stands an empty key, score and value zero, so that it may attend to
nothing, as it does where there is no history. A history token says post and action together,
unlike Feed-SR's two. Knows no context features, no tasks.

Shape suffixes: M impressions; S sequences; N candidates; Q chosen impressions; T = M + Q tokens; D
width of a token.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from feature_repo.spec import Spec
from kernels.shared_context_attention import SeqlenInfo, Tokens, shared_context_attention
from model.accounting import linear_flops
from model.batch import Impressions, RankBatch
from model.layers.block import MLP, Attention
from model.layers.rope import Rotation
from model.rivals.config import HistoryConfig
from model.tokens import ActionTokens, PostTokens


class HistoryBlock(nn.Module):
    """One pre-LayerNorm layer; `add` makes what joins each of its two branches to the stream."""

    def __init__(self, config: HistoryConfig, add: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.heads)
        self.attention_add = add()
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = MLP(config.width, config.mlp_ratio, config.mlp)
        self.mlp_add = add()
        self.dropout = nn.Dropout(config.dropout)

    def project(self, x_TD: Tensor, rotation: Rotation, *, queries: bool = True) -> Tokens:
        """Queries, keys and values of a history."""
        return self.attention.project(self.attention_norm(x_TD), rotation, queries=queries)

    def project_candidates(self, x_ND: Tensor, rotation: Rotation) -> Tokens:
        """Queries of candidates, beside empty keys and values."""
        query = self.attention.query(self.attention_norm(x_ND))
        query = rotation(query.unflatten(-1, (self.attention.heads, -1)))
        empty = torch.zeros_like(query)
        return Tokens(query, empty, empty)

    def finish(self, x_TD: Tensor, heads_THC: Tensor | None) -> Tensor:
        """The stream after what was attended to, and after the MLP."""
        assert heads_THC is not None
        x_TD = self.attention_add(x_TD, self.dropout(self.attention.join(heads_THC)))
        return self.mlp_add(x_TD, self.dropout(self.mlp(self.mlp_norm(x_TD))))


class HistoryTransformer(nn.Module):
    """States of candidates over histories, in training and serving from the same weights.

    Args:
        config: its sizes.
        spec: the features.
        add: makes what joins a branch to the stream; see `HistoryBlock`.
    """

    def __init__(self, config: HistoryConfig, spec: Spec, add: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.config = config
        self.post_tokens = PostTokens(spec, config.width, config.embedding_dropout)
        self.action_tokens = ActionTokens(spec, config.width)
        self.blocks = nn.ModuleList(HistoryBlock(config, add) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    @property
    def layers(self) -> list[HistoryBlock]:
        """The blocks, first to last."""
        return [block for block in self.blocks if isinstance(block, HistoryBlock)]

    def of_impressions(self, impressions: Impressions, row_Q: Tensor) -> Tensor:
        """The state `[Q, D]` of chosen impressions, each as the candidate that it was when served.

        The candidates stand behind their sequence's history: they see the prefix that they knew,
        and nothing sees them.
        """
        posts_MD = self.post_tokens(impressions.features)
        history_MD = posts_MD + self.action_tokens(impressions.actions)
        source_T, at_Q, cu_tokens = append(impressions.cu_seqlens, row_Q)
        known_T = torch.cat([impressions.known_M, impressions.known_M[row_Q]])[source_T]
        x_TD = torch.cat([history_MD, posts_MD[row_Q]])[source_T]
        rotation = self._rotation(known_T)
        info = SeqlenInfo(cu_seqlens=cu_tokens, prefix=known_T, group=1)
        of_history = (source_T < impressions.num_impressions)[:, None, None]
        *first, last = self.layers
        for block in first:
            tokens = keep(block.project(x_TD, rotation), of_history)
            x_TD = block.finish(x_TD, shared_context_attention(tokens, None, info)[0])
        tokens = keep(last.project(x_TD, rotation), of_history)
        seen, _ = shared_context_attention(tokens, None, info)
        assert seen is not None
        return self.norm(last.finish(x_TD[at_Q], seen[at_Q]))

    def of_candidates(self, batch: RankBatch) -> Tensor:
        """The state `[N, D]` of every request's candidates over its one history."""
        history = batch.history
        length_N = history.cu_seqlens.diff().repeat_interleave(batch.cu_candidates.diff().long())
        rotation_M, rotation_N = self._rotation(history.known_M), self._rotation(length_N)
        info = SeqlenInfo(
            cu_seqlens=history.cu_seqlens,
            cu_candidates=batch.cu_candidates,
            prefix=history.known_M,
            group=1,
        )
        x_MD = self.post_tokens(history.features) + self.action_tokens(history.actions)
        x_ND = self.post_tokens(batch.candidates)
        for number, block in enumerate(self.layers, start=1):
            goes_on = number < self.config.layers
            context = block.project(x_MD, rotation_M, queries=goes_on)
            candidates = block.project_candidates(x_ND, rotation_N)
            seen, seen_N = shared_context_attention(context, candidates, info)
            x_ND = block.finish(x_ND, seen_N)
            if goes_on:
                x_MD = block.finish(x_MD, seen)
        return self.norm(x_ND)

    def flops(self, num_impressions: int, num_candidates: int) -> int:
        """Operations of `of_candidates` on one request; of the last layer's history, K and V."""
        pairs = num_impressions * (num_impressions + 1) // 2 * (self.config.layers - 1)
        pairs += num_candidates * (num_impressions + 1) * self.config.layers
        linear = linear_flops(self.post_tokens, num_impressions + num_candidates)
        linear += linear_flops(self.action_tokens, num_impressions)
        for block in self.layers:
            key_value = block.attention.key_value
            linear += linear_flops(block, num_candidates) - linear_flops(key_value, num_candidates)
            of_history = key_value if block is self.layers[-1] else block
            linear += linear_flops(of_history, num_impressions)
        return linear + 4 * self.config.width * pairs

    def _rotation(self, position_T: Tensor) -> Rotation:
        dtype = torch.promote_types(self.norm.weight.dtype, torch.float32)
        head_dim = self.config.width // self.config.heads
        return Rotation.at(position_T, head_dim, self.config.rope_base, dtype)


def keep(tokens: Tokens, kept: Tensor) -> Tokens:
    """The tokens with empty keys and values where they are not kept, bool `[T, 1, 1]`."""
    return Tokens(tokens.q, tokens.k * kept, tokens.v * kept)


def sequence_of(cu_seqlens: Tensor, row_Q: Tensor) -> Tensor:
    """int64 `[Q]`, the sequence that each of the packed rows belongs to."""
    return torch.searchsorted(cu_seqlens[1:].long(), row_Q, right=True)


def append(cu_seqlens: Tensor, row_Q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Chosen rows once more, behind the sequence that they are of.

    Args:
        cu_seqlens: int32 `[S + 1]`, offsets of the sequences in M.
        row_Q: int64, rows in [0, M) in any order.

    Returns:
        (int64 `[T]`, what stands at each place: a row, or M + q; int64 `[Q]`, the place of each
        chosen row; int32 `[S + 1]`, offsets of the longer sequences).
    """
    rows, chosen = int(cu_seqlens[-1]), len(row_Q)
    sequence_Q = sequence_of(cu_seqlens, row_Q)
    added_S = torch.bincount(sequence_Q, minlength=len(cu_seqlens) - 1)
    cu_added = torch.cat([added_S.new_zeros(1), added_S.cumsum(0)])
    before_M = cu_added[:-1].repeat_interleave(cu_seqlens.diff().long())
    place_M = torch.arange(rows, device=row_Q.device) + before_M
    order_Q = sequence_Q.argsort(stable=True)
    at_Q = cu_seqlens[1:].long()[sequence_Q]
    at_Q[order_Q] += torch.arange(chosen, device=row_Q.device)
    source_T = torch.cat([place_M, at_Q]).argsort()
    return source_T, at_Q, (cu_seqlens + cu_added).to(torch.int32)
