# SPDX-License-Identifier: Apache-2.0
"""What a ranker takes: packed impressions for training, histories with candidates for serving.

Shape suffixes: M impressions of all sequences, packed; S sequences; R target impressions (rows with
a loss); N candidates of all requests, packed; C context columns; K tasks; E embedding width of one
feature.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Impressions:
    """Packed histories.

    Attributes:
        features: sequence features by name, `[M]` (int64 ids, int32 codes, float32 numerics) or
            `[M, E]` (float16).
        actions: actions by name, `[M]`: int8 with UNKNOWN = -1, or float32 with NaN for numeric
            ones.
        known_M: int32, how many of the sequence's impressions were known when this one was served,
            counted from the window's start; never above the impression's own index.
        cu_seqlens: int32 `[S + 1]`, offsets of the sequences in M.
        time_M: int64 ms, when each was served (an untimed row's is where its source placed it);
            None where nobody asks, as positions "time_rope" and LiGR's sets do.
    """

    features: dict[str, Tensor]
    actions: dict[str, Tensor]
    known_M: Tensor
    cu_seqlens: Tensor
    time_M: Tensor | None = None

    @property
    def num_impressions(self) -> int:
        """M."""
        return int(self.known_M.shape[0])


@dataclass(frozen=True, kw_only=True)
class TrainBatch:
    """Packed sequences with targets.

    Attributes:
        impressions: the sequences.
        target_R: int64, which impressions in [0, M) carry the loss with context features.
        context_RC: float32 raw context features as of each target's own time; NaN is missing.
        labels_RK: float32, NaN where an action was not observed; above one where one was divided
            by a propensity.
        weight_R: float32 loss weight (position half-life, age half-life).
        position_R: int64 feed position, UNKNOWN = -1.
        auxiliary_A: int64, impressions trained on the sequence output alone (untimed rows have no
            context).
        auxiliary_labels_AK: float32, NaN where not observed.
    """

    impressions: Impressions
    target_R: Tensor
    context_RC: Tensor
    labels_RK: Tensor
    weight_R: Tensor
    position_R: Tensor
    auxiliary_A: Tensor
    auxiliary_labels_AK: Tensor

    def to(self, device: torch.device | str) -> TrainBatch:
        """The batch on another device."""
        moved = {f.name: _to(getattr(self, f.name), device) for f in dataclasses.fields(self)}
        return TrainBatch(**moved)


@dataclass(frozen=True, kw_only=True)
class RankBatch:
    """Requests to score in one forward: each one history and its candidates.

    Attributes:
        history: the members' histories, one sequence a request (a sequence may be empty).
        candidates: sequence features of the candidates by name, `[N]` or `[N, E]`.
        context_NC: float32 raw context features of the candidates.
        cu_candidates: int32 `[S + 1]`, offsets of the requests in N.
        position_N: int64 feed position assumed for each candidate.
        time_N: int64 ms, the time of each candidate's request; None as `Impressions.time_M`.
    """

    history: Impressions
    candidates: dict[str, Tensor]
    context_NC: Tensor
    cu_candidates: Tensor
    position_N: Tensor
    time_N: Tensor | None = None

    def to(self, device: torch.device | str) -> RankBatch:
        """The batch on another device."""
        moved = {f.name: _to(getattr(self, f.name), device) for f in dataclasses.fields(self)}
        return RankBatch(**moved)


def _to(value: Tensor | dict[str, Tensor] | Impressions | None, device: torch.device | str):  # type: ignore[no-untyped-def]
    if value is None:
        return None
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {name: tensor.to(device, non_blocking=True) for name, tensor in value.items()}
    return Impressions(
        **{f.name: _to(getattr(value, f.name), device) for f in dataclasses.fields(value)}
    )
