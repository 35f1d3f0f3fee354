# SPDX-License-Identifier: Apache-2.0
"""Feed-SR: a causal transformer over a member's last impressions, fused late with context.

Each impression is a post token and an action token. Outputs at action tokens are dropped; the
output at a post token, or at a candidate, is joined with its context features and goes to the
multi-task head (arXiv 2602.12354). What a token may see follows from `known` alone: see
docs/known-time.md.

Shape suffixes: M impressions; T = 2 M context tokens; S sequences; N candidates; R targets; A
auxiliary impressions; D width of a token; K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from feature_repo.spec import Spec
from kernels.shared_context_attention import SeqlenInfo
from model.accounting import attention_pairs, linear_flops
from model.batch import Impressions, RankBatch, TrainBatch
from model.config import FeedSRConfig
from model.heads import PositionOffsets, TaskHead, output_layer
from model.isotonic import IsotonicCalibration
from model.layers.context_memory import ContextMemory
from model.layers.layer import Layer, Placement
from model.layers.positions import Sites, candidate_sites, context_sites, make_positions
from model.layers.rope import Rotate
from model.layers.stack import make_layer
from model.ranker import Output, Ranker
from model.tokens import ActionTokens, PostTokens


class FeedSR(Ranker):
    """The sequential ranker."""

    config: FeedSRConfig

    def __init__(self, config: FeedSRConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.post_tokens = PostTokens(spec, config.width, config.embedding_dropout)
        self.action_tokens = ActionTokens(spec, config.width)
        longest = 2 * (spec.max_impressions + spec.block)
        self.blocks = nn.ModuleList(make_layer(config, longest) for _ in range(config.layers))
        # After a post-LayerNorm layer the stream is normalised already.
        self.norm = nn.LayerNorm(config.width) if config.norm == "pre" else nn.Identity()
        joined = config.width + self.context_encoder.width
        self.head = TaskHead(config.head, joined, spec.tasks)
        self.offsets = PositionOffsets(config.offset_positions, len(spec.tasks))
        self.auxiliary = output_layer(config.width, spec.tasks)
        # Last, so that a table of positions leaves the other weights of a seed as they are.
        self.positions = make_positions(config, spec)
        buckets = config.calibration_buckets
        self.calibration = (
            IsotonicCalibration(len(spec.tasks), buckets) if buckets else nn.Identity()
        )
        self._stream_dtype: torch.dtype | None = None

    def forward(self, batch: TrainBatch) -> Output:
        """Logits of the targets, and of the auxiliary impressions on the sequence output alone."""
        sites = context_sites(batch.impressions)
        placement = self._placement(batch.impressions, sites)
        context = self._context_tokens(batch.impressions, sites)
        *first, last = self.layers
        for block in first:
            context, _ = block(context, None, placement)
        rows = 2 * torch.cat([batch.target_R, batch.auxiliary_A])
        state = self.norm(last.forward_rows(context, rows, placement))
        state_RD, state_AD = state.split([len(batch.target_R), len(batch.auxiliary_A)])
        logits = self._fuse(state_RD, batch.context_RC, batch.position_R)
        return Output(logits, self.auxiliary(state_AD))

    def rank(self, batch: RankBatch) -> Tensor:
        """Logits `[N, K]`: every request's candidates over its one history, in one forward."""
        return self._rank(batch)

    @property
    def remembers(self) -> bool:
        """Whether `rank_after` is there: it is."""
        return True

    def rank_after(
        self, batch: RankBatch, past: Sequence[Tensor | None]
    ) -> tuple[Tensor, list[Tensor]]:
        """`rank` where the keys and values of the histories' first impressions are remembered.

        Args:
            batch: `history` holds the impressions that come after the remembered ones; `known_M`
                counts from the window's start all the same.
            past: each request's memory `[layers, 2, tokens, heads, head_dim]` (see
                `model.layers.context_memory`), or None.

        Returns:
            (logits `[N, K]`, each request's memory with its new impressions); no memory, given or
            returned, is written to afterwards.
        """
        shape = (self.config.layers, self.config.heads, self.config.head_dim)
        added = (2 * batch.history.cu_seqlens.diff()).tolist()
        memory = ContextMemory(past, added, shape, like=next(self.blocks.parameters()))
        return self._rank(batch, memory), memory.of_each()

    def compute_in(self, dtype: torch.dtype) -> FeedSR:
        """Serves with blocks in `dtype`, bfloat16 say; encoders and head stay as they are.

        Not for training: the blocks' weights are rounded.
        """
        self.blocks.to(dtype)
        self.norm.to(dtype)
        self._stream_dtype = dtype
        return self

    @property
    def layers(self) -> list[Layer]:
        """The blocks, first to last."""
        return [block for block in self.blocks if isinstance(block, Layer)]

    def flops(self, num_impressions: int, num_candidates: int) -> int:
        """Floating-point operations of ranking one request (a multiply-add is two)."""
        return sum(self.flops_by_part(num_impressions, num_candidates).values())

    def flops_by_part(self, num_impressions: int, num_candidates: int) -> dict[str, int]:
        """`flops` by part; the last layer needs keys and values of its context alone."""
        tokens = 2 * num_impressions
        pairs, pairs_N = attention_pairs(num_impressions, num_candidates)
        per_pair, full = 4 * self.config.width, self.config.layers - 1
        *first, last = self.layers
        return {
            "tokens": linear_flops(self.post_tokens, num_impressions + num_candidates)
            + linear_flops(self.action_tokens, num_impressions),
            "blocks": sum(linear_flops(block, tokens + num_candidates) for block in first)
            + linear_flops(last, num_candidates)
            + linear_flops(last.key_value_layer(), tokens),
            "attention": per_pair * (full * (pairs + pairs_N) + pairs_N),
            "head": self._fused_flops(num_candidates),
        }

    def training_flops(self, num_impressions: int, num_targets: int, pairs: int) -> int:
        """Floating-point operations of the forward that training runs on packed sequences.

        Args:
            num_impressions: of all sequences.
            num_targets: rows that go through the head; of the last layer they alone are finished,
                which is not taken off here.
            pairs: how many keys the context tokens see, summed.
        """
        layers = sum(linear_flops(layer, 2 * num_impressions) for layer in self.layers)
        tokens = linear_flops(self.post_tokens, num_impressions)
        tokens += linear_flops(self.action_tokens, num_impressions)
        attention = 4 * self.config.width * self.config.layers * pairs
        return layers + tokens + self._fused_flops(num_targets) + attention

    def _fused_flops(self, rows: int) -> int:
        return linear_flops(self.head, rows) + linear_flops(self.context_encoder, rows)

    def _rank(self, batch: RankBatch, memory: ContextMemory | None = None) -> Tensor:
        sites = context_sites(batch.history)
        past_tokens = None if memory is None else memory.past_tokens
        placement = self._placement(batch.history, sites, batch.cu_candidates, past_tokens)
        sites_N = candidate_sites(batch, placement.info.cu_seqlens.diff())
        placement = replace(placement, candidates=self._rotation(sites_N))
        context = self._context_tokens(batch.history, sites)
        candidates = self.positions.add_to(self.post_tokens(batch.candidates), sites_N)
        context, candidates = (self._in_stream_dtype(x) for x in (context, candidates))
        for layer, block in enumerate(self.layers):
            extend = None if memory is None else partial(memory.extend, layer)
            if layer < self.config.layers - 1:
                context, candidates = block(context, candidates, placement, extend)
            else:
                candidates = block.forward_candidates(context, candidates, placement, extend)
        state_ND = self.norm(candidates).to(self.dtype)
        return self._fuse(state_ND, batch.context_NC, batch.position_N)

    def _in_stream_dtype(self, x: Tensor) -> Tensor:
        return x if self._stream_dtype is None else x.to(self._stream_dtype)

    def _context_tokens(self, impressions: Impressions, sites: Sites) -> Tensor:
        """X1 A1 X2 A2 ...: `[T, D]`."""
        posts = self.post_tokens(impressions.features)
        actions = self.action_tokens(impressions.actions)
        if self.config.action_token == "with_post":
            actions = actions + posts
        return self.positions.add_to(torch.stack([posts, actions], 1).flatten(0, 1), sites)

    def _placement(
        self,
        impressions: Impressions,
        sites: Sites,
        cu_candidates: Tensor | None = None,
        past_tokens: Sequence[int] | None = None,
    ) -> Placement:
        cu_seqlens, cu_queries = 2 * impressions.cu_seqlens, None
        if past_tokens is not None:
            ends = torch.tensor([0, *past_tokens], dtype=torch.int32, device=cu_seqlens.device)
            cu_seqlens, cu_queries = cu_seqlens + ends.cumsum(0).to(torch.int32), cu_seqlens
        info = SeqlenInfo(
            cu_seqlens=cu_seqlens,
            cu_candidates=cu_candidates,
            prefix=(2 * impressions.known_M).repeat_interleave(2),
            cu_queries=cu_queries,
        )
        return Placement(info=info, context=self._rotation(sites))

    def _rotation(self, sites: Sites) -> Rotate:
        dtype = torch.promote_types(self.dtype, torch.float32)
        return self.positions.rotation(sites, dtype)

    def _fuse(self, state_RD: Tensor, context_RC: Tensor, position_R: Tensor) -> Tensor:
        context = self.context_encoder(context_RC)
        logits = self.head(torch.cat([state_RD, context], -1))
        return self.calibration(logits) + self.offsets(position_R)
