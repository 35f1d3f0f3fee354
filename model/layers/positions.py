# SPDX-License-Identifier: Apache-2.0
"""How tokens learn where they sit: by a rotation, by an embedding, or not at all.

What is rotated are queries and keys. A post token sits at `2 * known`, its action token one
further, a candidate after the whole history (docs/known-time.md). Knows positions and times; not
how attention uses them.

Shape suffixes: M impressions; T = 2 M context tokens or N candidates; S sequences; D width of a
token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from feature_repo.spec import Spec
from model.batch import Impressions, RankBatch
from model.config import FeedSRConfig
from model.layers.rope import Rotate, Rotation, unrotated

TABLE_STD = 0.02
"""Of a new table of learned positions: next to nothing beside a token."""


@dataclass(frozen=True)
class Sites:
    """Where some tokens sit.

    Attributes:
        position_T: their positions, counted from the window's start.
        time_T: int64 ms, when each was served, or None where the batch does not say.
    """

    position_T: Tensor
    time_T: Tensor | None


def context_sites(impressions: Impressions) -> Sites:
    """The sites of X1 A1 X2 A2 ...; post and action of an impression share its time."""
    position_T = (2 * impressions.known_M).repeat_interleave(2)
    position_T[1::2] += 1
    time = impressions.time_M
    return Sites(position_T, None if time is None else time.repeat_interleave(2))


def candidate_sites(batch: RankBatch, length_S: Tensor) -> Sites:
    """The sites of candidates: after all tokens of their request's context, `length_S` of them."""
    counts_S = batch.cu_candidates.diff().long()
    return Sites(length_S.repeat_interleave(counts_S), batch.time_N)


class Positions(nn.Module):
    """No positions: of the order remains what `known` lets each token see."""

    def add_to(self, x_TD: Tensor, sites: Sites) -> Tensor:
        """The tokens, with what is added to them."""
        return x_TD

    def rotation(self, sites: Sites, dtype: torch.dtype) -> Rotate:
        """What turns the tokens' queries and keys; `dtype` is float32 or float64.

        Raises:
            ValueError: times are wanted and the batch has none.
        """
        return unrotated


class RotaryPositions(Positions):
    """RoPE by position (arXiv 2104.09864)."""

    def __init__(self, head_dim: int, base: float) -> None:
        super().__init__()
        self.head_dim, self.base = head_dim, base

    def rotation(self, sites: Sites, dtype: torch.dtype) -> Rotate:
        """By each token's position."""
        return Rotation.at(sites.position_T, self.head_dim, self.base, dtype)


class TimePositions(Positions):
    """RoPE by the time served: the timestamp-based variant of CADET (arXiv 2602.11410).

    Only elapsed times matter, so that a remembered key holds, and a window may slide. An untimed
    row sits where its source placed it, in order before the timed ones; a session that training
    shuffles keeps each impression's own time, so that a key may be a little later than its query.
    """

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim

    def rotation(self, sites: Sites, dtype: torch.dtype) -> Rotate:
        """By each token's time."""
        if sites.time_T is None:
            raise ValueError(
                'positions "time_rope" want the time of every impression and request, and this '
                "batch has none; fill Impressions.time_M from event_time and RankBatch.time_N"
            )
        return Rotation.at_times(sites.time_T, self.head_dim, dtype)


class LearnedPositions(Positions):
    """An embedding of each position, added to the token; those beyond the table share the last."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, width)
        nn.init.normal_(self.table.weight, std=TABLE_STD)

    def add_to(self, x_TD: Tensor, sites: Sites) -> Tensor:
        """The tokens with the embeddings of their positions."""
        last = self.table.num_embeddings - 1
        return x_TD + self.table(sites.position_T.long().clamp_max(last))


def make_positions(config: FeedSRConfig, spec: Spec) -> Positions:
    """The positions of a configuration."""
    if config.positions == "rope":
        return RotaryPositions(config.head_dim, config.rope_base)
    if config.positions == "time_rope":
        return TimePositions(config.head_dim)
    if config.positions == "learned":
        # Two tokens an impression, and training sequences of up to two windows.
        return LearnedPositions(4 * (spec.max_impressions + spec.block), config.width)
    return Positions()
