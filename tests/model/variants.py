# SPDX-License-Identifier: Apache-2.0
"""The parts that a study exchanges, one and some at a time, and timed batches to feed them with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from model import FeedSRConfig, HeadConfig
from model.batch import Impressions, RankBatch, TrainBatch
from model.config import HeadName
from tests.builders import TINY, Pattern, make_rank_batch, make_train_batch, select_request

HEADS: tuple[HeadName, ...] = get_args(HeadName)
VARIANTS: dict[str, dict[str, Any]] = {
    "learned": {"positions": "learned"},
    "none": {"positions": "none"},
    "time_rope": {"positions": "time_rope"},
    "alone": {"action_token": "alone"},
    "silu": {"attention": "silu"},
    "relu": {"attention": "relu"},
    "sigmoid": {"attention": "sigmoid"},
    "gate": {"attention_gate": True},
    "hstu": {"block": "hstu"},
    "hstu published": {"block": "hstu_published"},
    "plain": {"residual": "plain"},
    "rezero": {"residual": "rezero"},
    "layer_scale": {"residual": "layer_scale"},
    "gated": {"residual": "gated"},
    "post": {"norm": "post"},
    "isotonic": {"calibration_buckets": 4},
    "cadet": {"positions": "time_rope", "attention_gate": True, "norm": "post", "mlp": "swiglu"},
    "hstu mixed": {"block": "hstu", "positions": "time_rope", "residual": "gated", "norm": "post"},
    "mixed": {
        "positions": "learned",
        "action_token": "alone",
        "attention": "sigmoid",
        "residual": "layer_scale",
    },
}
SMALL = FeedSRConfig(
    width=8,
    layers=3,
    heads=2,
    mlp_ratio=2.0,
    head=HeadConfig(width=8, hidden=1, cross=1, rank=4),
)


def variant(name: str, base: FeedSRConfig = SMALL) -> FeedSRConfig:
    """The configuration of a variant, validated."""
    return FeedSRConfig(**{**base.model_dump(), **VARIANTS[name]})


def with_times(impressions: Impressions, seed: int) -> Impressions:
    """The histories with times: gaps from milliseconds to months, each sequence on its own."""
    generator = torch.Generator().manual_seed(seed)
    gaps = 10 ** (10 * torch.rand(impressions.num_impressions, generator=generator).double())
    time = 1_700_000_000_000 + gaps.long().cumsum(0)
    return dataclasses.replace(impressions, time_M=time)


def timed_train_batch(
    seed: int, lengths: Sequence[int], pattern: Pattern = "causal", spec: Any = TINY
) -> TrainBatch:
    """`make_train_batch` with times."""
    batch = make_train_batch(spec, seed, lengths, pattern)
    return dataclasses.replace(batch, impressions=with_times(batch.impressions, seed))


def timed_rank_batch(
    seed: int,
    lengths: Sequence[int],
    counts: Sequence[int],
    pattern: Pattern = "causal",
    spec: Any = TINY,
) -> RankBatch:
    """`make_rank_batch` with times, each request a while after the last impression of all."""
    batch = make_rank_batch(spec, seed, lengths, counts, pattern)
    history = with_times(batch.history, seed)
    assert history.time_M is not None
    last = int(history.time_M[-1]) if len(history.time_M) else 1_700_000_000_000
    wait = torch.arange(1, len(counts) + 1) * 3_700_123
    return dataclasses.replace(
        batch, history=history, time_N=(last + wait).repeat_interleave(torch.tensor(counts))
    )


def timed_request(batch: RankBatch, request: int, candidates: Sequence[int]) -> RankBatch:
    """`select_request` with times."""
    assert batch.time_N is not None
    assert batch.history.time_M is not None
    alone = select_request(batch, request, candidates)
    rows = slice(*batch.history.cu_seqlens[request : request + 2].tolist())
    chosen = int(batch.cu_candidates[request]) + torch.tensor(candidates, dtype=torch.int64)
    history = dataclasses.replace(alone.history, time_M=batch.history.time_M[rows])
    return dataclasses.replace(alone, history=history, time_N=batch.time_N[chosen])


def joined(times: Sequence[Tensor | None]) -> Tensor | None:
    """Times of several batches as one's; None where one has none."""
    known = [t for t in times if t is not None]
    return torch.cat(known) if len(known) == len(times) else None
