# SPDX-License-Identifier: Apache-2.0
"""A transformer over one token an impression, with candidates that see the history and not each
other.

The candidate-appended form of M-FALCON (arXiv 2402.17152, section 3.3) as the cross-attention it
amounts to (arXiv 2412.06924): the history attends to itself once a request, and in every layer a
candidate attends to the history's keys and values and to itself. A history token says post and
action together, unlike Feed-SR's two. Knows no context features, no tasks.

Shape suffixes: M impressions; S sequences; N candidates; Q chosen impressions; T = M + Q tokens; D
width of a token.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from feature_repo.spec import Spec
from kernels.shared_context_attention import SeqlenInfo
from model.accounting import linear_flops
from model.batch import Impressions, RankBatch
from model.block import Block
from model.config import FeedSRConfig
from model.layer import Placement
from model.rivals.config import HistoryConfig
from model.rope import Rotation
from model.tokens import ActionTokens, PostTokens


class HistoryTransformer(nn.Module):
    """States of candidates over histories, in training and serving from the same weights.

    Args:
        config: its sizes.
        spec: the features.
        residual: how a branch of a block joins the stream.
    """

    def __init__(
        self, config: HistoryConfig, spec: Spec, residual: Literal["rescale", "gated"]
    ) -> None:
        super().__init__()
        self.config = config
        self.post_tokens = PostTokens(spec, config.width, config.embedding_dropout)
        self.action_tokens = ActionTokens(spec, config.width)
        blocks = FeedSRConfig(
            width=config.width,
            heads=config.heads,
            mlp=config.mlp,
            mlp_ratio=config.mlp_ratio,
            residual=residual,
            dropout=config.dropout,
        )
        self.blocks = nn.ModuleList(Block(blocks) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    @property
    def layers(self) -> list[Block]:
        """The blocks, first to last."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def of_impressions(self, impressions: Impressions, row_Q: Tensor) -> Tensor:
        """The state `[Q, D]` of chosen impressions, each as the candidate that it was when served.

        The candidates stand behind their sequence's history: they see the prefix that they knew,
        and nothing sees them.
        """
        posts_MD = self.post_tokens(impressions.features)
        history_MD = posts_MD + self.action_tokens(impressions.actions)
        source_T, at_Q, cu_tokens = append(impressions.cu_seqlens, row_Q)
        known_T = torch.cat([impressions.known_M, impressions.known_M[row_Q]])[source_T]
        tokens_TD = torch.cat([history_MD, posts_MD[row_Q]])[source_T]
        info = SeqlenInfo(cu_seqlens=cu_tokens, prefix=known_T, group=1)
        placement = Placement(info=info, context=self._rotation(known_T))
        *first, last = self.layers
        for block in first:
            tokens_TD, _ = block(tokens_TD, None, placement)
        return self.norm(last.forward_rows(tokens_TD, at_Q, placement))

    def of_candidates(self, batch: RankBatch) -> Tensor:
        """The state `[N, D]` of every request's candidates over its one history."""
        history = batch.history
        length_N = history.cu_seqlens.diff().repeat_interleave(batch.cu_candidates.diff().long())
        info = SeqlenInfo(
            cu_seqlens=history.cu_seqlens,
            cu_candidates=batch.cu_candidates,
            prefix=history.known_M,
            group=1,
        )
        context, candidates = self._rotation(history.known_M), self._rotation(length_N)
        placement = Placement(info=info, context=context, candidates=candidates)
        context_MD = self.post_tokens(history.features) + self.action_tokens(history.actions)
        state_ND = self.post_tokens(batch.candidates)
        *first, last = self.layers
        for block in first:
            context_MD, state_ND = block(context_MD, state_ND, placement)
        return self.norm(last.forward_candidates(context_MD, state_ND, placement))

    def flops(self, num_impressions: int, num_candidates: int) -> int:
        """Operations of `of_candidates` on one request; of the last layer's history, K and V."""
        both = num_impressions + num_candidates
        *first, last = self.layers
        pairs = num_impressions * (num_impressions + 1) // 2 * len(first)
        pairs += num_candidates * (num_impressions + 1) * self.config.layers
        linear = linear_flops(self.post_tokens, both)
        linear += linear_flops(self.action_tokens, num_impressions)
        linear += sum(linear_flops(block, both) for block in first)
        linear += linear_flops(last, num_candidates)
        linear += linear_flops(last.key_value_layer(), num_impressions)
        return linear + 4 * self.config.width * pairs

    def _rotation(self, position_T: Tensor) -> Rotation:
        dtype = torch.promote_types(self.norm.weight.dtype, torch.float32)
        head_dim = self.config.width // self.config.heads
        return Rotation.at(position_T, head_dim, self.config.rope_base, dtype)


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
