# SPDX-License-Identifier: Apache-2.0
"""TransAct-style: a small encoder over the member's newest impressions, anew for each candidate.

Each impression, post and action, is one token that is fused with the candidate from the start; the
encoder's outputs, pooled and at the newest impressions, join the candidate's own features and the
context features in a DCN-V2 (arXiv 2306.00248, section 3.3). The history's visibility is `known_M`:
a target sees its newest known impressions. The paper's random time window, which hides the newest
actions in training, is left out: known time does that exactly.

Shape suffixes: M impressions; Q targets or candidates; R those of one chunk; L impressions looked
at; D width of a token; W width of the encoded features; C context columns; K tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from feature_repo.spec import Spec
from model import accounting
from model.batch import Impressions, RankBatch, TrainBatch
from model.heads import PositionOffsets, TaskHead, output_layer
from model.ranker import Output, Ranker
from model.rivals.config import TransActConfig
from model.rivals.history import sequence_of
from model.tokens import ActionTokens, PostTokens


@dataclass(frozen=True, kw_only=True)
class Window:
    """What each row may look at: `known_Q` impressions from `start_Q` on, both int64."""

    start_Q: Tensor
    known_Q: Tensor


class EncoderLayer(nn.Module):
    """A post-LayerNorm transformer layer without positions, over padded rows."""

    def __init__(self, config: TransActConfig) -> None:
        super().__init__()
        width, hidden = config.width, round(config.width * config.mlp_ratio)
        self.heads = config.heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.mlp_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_RLD: Tensor, seen_RL: Tensor) -> Tensor:
        """`[R, L, D]` to `[R, L, D]`; `seen_RL` are the keys that are there, at least one a row."""
        heads = self.query_key_value(x_RLD).unflatten(-1, (3, self.heads, -1))
        query, key, value = heads.transpose(1, 3).unbind(2)
        mask = seen_RL[:, None, None]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        branch = self.out(attended.transpose(1, 2).flatten(2))
        x_RLD = self.attention_norm(x_RLD + self.dropout(branch))
        return self.mlp_norm(x_RLD + self.dropout(self.mlp(x_RLD)))


class HistoryEncoder(nn.Module):
    """The newest known impressions of each row, fused with its candidate, to one vector."""

    def __init__(self, config: TransActConfig) -> None:
        super().__init__()
        self.history, self.outputs, self.chunk = config.history, config.outputs, config.chunk
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.width = (config.outputs + 1) * config.width

    def forward(self, history_MD: Tensor, candidate_QD: Tensor, window: Window) -> Tensor:
        """Impressions and candidates as their shares of a token, to `[Q, width]`.

        Rows go through in chunks. In training all chunks but a single one are computed again in
        the backward, so that memory is bounded by the chunk and not by the batch.
        """
        again = torch.is_grad_enabled() and len(candidate_QD) > self.chunk
        history_MD = F.pad(history_MD, (0, 0, 0, 1))  # the last row is what padding points to
        parts = []
        for rows in zip(
            candidate_QD.split(self.chunk),
            window.start_Q.split(self.chunk),
            window.known_Q.split(self.chunk),
            strict=True,
        ):
            if again:
                parts.append(checkpoint(self._encode, history_MD, *rows, use_reentrant=False))
            else:
                parts.append(self._encode(history_MD, *rows))
        return torch.cat(parts)

    def _encode(
        self, history_MD: Tensor, candidate_RD: Tensor, start_R: Tensor, known_R: Tensor
    ) -> Tensor:
        longest = int(known_R.max()) if len(known_R) else 0
        # At least one, so that every weight takes part in every step of every process.
        length = max(min(self.history, longest), 1)
        # Newest first, so that the first outputs are at the newest impressions.
        place_RL = known_R[:, None] - 1 - torch.arange(length, device=known_R.device)
        there_RL = place_RL >= 0
        row_RL = torch.where(there_RL, start_R[:, None] + place_RL, len(history_MD) - 1)
        x_RLD = history_MD[row_RL] + candidate_RD[:, None]
        # A row without history attends to its padding: a softmax over nothing is not a number.
        seen_RL = there_RL | ~there_RL[:, :1]
        for layer in self.layers:
            x_RLD = layer(x_RLD, seen_RL)
        return self._pool(x_RLD, there_RL)

    def _pool(self, x_RLD: Tensor, there_RL: Tensor) -> Tensor:
        """The newest outputs and the maximum over all, zero where there is none."""
        largest_RD = x_RLD.masked_fill(~there_RL[..., None], -torch.inf).amax(1)
        largest_RD = torch.where(there_RL[:, :1], largest_RD, 0.0)
        newest = torch.where(there_RL[..., None], x_RLD, 0.0)[:, : self.outputs]
        newest = F.pad(newest, (0, 0, 0, self.outputs - newest.shape[1]))
        return torch.cat([newest.flatten(1), largest_RD], -1)


class TransAct(Ranker):
    """The ranker that encodes the history anew for each candidate."""

    config: TransActConfig

    def __init__(self, config: TransActConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.post_tokens = PostTokens(spec, config.width, config.embedding_dropout)
        self.action_tokens = ActionTokens(spec, config.width)
        post_width = self.post_tokens.encoder.width
        self.candidate_tokens = nn.Linear(post_width, config.width, bias=False)
        self.encoder = HistoryEncoder(config)
        sequence_width = self.encoder.width + post_width
        joined = sequence_width + self.context_encoder.width
        self.head = TaskHead(config.head, joined, spec.tasks)
        self.offsets = PositionOffsets(config.offset_positions, len(spec.tasks))
        self.auxiliary = output_layer(sequence_width, spec.tasks)

    def forward(self, batch: TrainBatch) -> Output:
        """Logits of the targets, and of the auxiliary impressions without context features."""
        imp, rows = batch.impressions, torch.cat([batch.target_R, batch.auxiliary_A])
        post_MW = self.post_tokens.encoder(imp.features)
        start_Q = imp.cu_seqlens[sequence_of(imp.cu_seqlens, rows)].long()
        window = Window(start_Q=start_Q, known_Q=imp.known_M[rows].long())
        joined = self._sequence(self._history(post_MW, imp), post_MW[rows], window)
        joined_R, joined_A = joined.split([len(batch.target_R), len(batch.auxiliary_A)])
        logits = self._fuse(joined_R, batch.context_RC, batch.position_R)
        return Output(logits, self.auxiliary(joined_A))

    def rank(self, batch: RankBatch) -> Tensor:
        """Logits `[N, K]`: the history is encoded once for each candidate."""
        imp, count_S = batch.history, batch.cu_candidates.diff().long()
        history_MD = self._history(self.post_tokens.encoder(imp.features), imp)
        window = Window(
            start_Q=imp.cu_seqlens[:-1].long().repeat_interleave(count_S),
            known_Q=imp.cu_seqlens.diff().long().repeat_interleave(count_S),
        )
        candidate_NW = self.post_tokens.encoder(batch.candidates)
        joined = self._sequence(history_MD, candidate_NW, window)
        return self._fuse(joined, batch.context_NC, batch.position_N)

    def flops(self, num_impressions: int, num_candidates: int) -> int:
        """Floating-point operations of ranking one request (a multiply-add is two)."""
        length = min(self.config.history, num_impressions)
        shares = (self.post_tokens.encoder, self.candidate_tokens, self.context_encoder, self.head)
        linear = sum(accounting.linear_flops(part, num_candidates) for part in shares)
        linear += accounting.linear_flops(self.post_tokens, num_impressions)
        linear += accounting.linear_flops(self.action_tokens, num_impressions)
        linear += accounting.linear_flops(self.encoder, num_candidates * length)
        pairs = num_candidates * length**2 * self.config.layers
        return linear + 4 * self.config.width * pairs

    def _history(self, post_MW: Tensor, impressions: Impressions) -> Tensor:
        """The impressions' share of a token.

        A linear layer over post, action and candidate joined is the sum of three, and the first two
        are the same for every candidate.
        """
        return self.post_tokens.linear(post_MW) + self.action_tokens(impressions.actions)

    def _sequence(self, history_MD: Tensor, candidate_QW: Tensor, window: Window) -> Tensor:
        encoded = self.encoder(history_MD, self.candidate_tokens(candidate_QW), window)
        return torch.cat([encoded, candidate_QW], -1)

    def _fuse(self, joined_RJ: Tensor, context_RC: Tensor, position_R: Tensor) -> Tensor:
        context = self.context_encoder(context_RC)
        return self.head(torch.cat([joined_RJ, context], -1)) + self.offsets(position_R)
