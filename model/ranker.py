# SPDX-License-Identifier: Apache-2.0
"""What every ranker is to the house: `forward` to train, `rank` to serve, one set of weights.

Knows the spec and the batches of `model.batch`; does not know how a ranker works inside.

Shape suffixes: R target impressions; A auxiliary impressions; N candidates; C context columns; K
tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from feature_repo.kinds import Embedding, Feature, HashedId
from feature_repo.spec import Spec
from model.batch import RankBatch, TrainBatch
from model.config import RankerConfig
from model.encoders import FeatureEncoder, NumericBank


@dataclass(frozen=True)
class Output:
    """Logits of `forward`: the targets' with context, the auxiliary ones of the sequence alone."""

    logits_RK: Tensor
    auxiliary_AK: Tensor


class ContextEncoder(nn.Module):
    """The context matrix of a spec to one vector a row.

    Raises:
        ValueError: a context feature is a hashed id, which a float32 column cannot hold exactly.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        features = spec.with_role("context")
        self.encoder = FeatureEncoder(features)
        self.slices = spec.context_slices
        self.features = features
        for f in features:
            if isinstance(f.kind, HashedId):
                raise ValueError(
                    f"spec {spec.name}: context feature {f.name!r} is a hashed id, which float32 "
                    "columns cannot hold; give it the role sequence"
                )

    @property
    def width(self) -> int:
        """Width of the encoded context."""
        return self.encoder.width

    def columns(self, context_RC: Tensor) -> dict[str, Tensor]:
        """The matrix's columns by feature: `[R]`, or `[R, E]` for dense vectors."""
        return {f.name: _column(context_RC, f, self.slices[f.name]) for f in self.features}

    def forward(self, context_RC: Tensor) -> Tensor:
        """Raw context features `[R, C]`, NaN where missing, to `[R, width]`."""
        return self.encoder(self.columns(context_RC)) if self.features else context_RC


def _column(context_RC: Tensor, feature: Feature, where: slice) -> Tensor:
    part = context_RC[:, where]
    return part if isinstance(feature.kind, Embedding) else part[:, 0]


class Ranker(nn.Module, ABC):
    """A model that ranks a feed, built from a configuration and a spec."""

    def __init__(self, config: RankerConfig, spec: Spec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.context_encoder = ContextEncoder(spec)

    @abstractmethod
    def forward(self, batch: TrainBatch) -> Output:
        """Logits, not probabilities, of the targets and of the auxiliary impressions."""

    @abstractmethod
    def rank(self, batch: RankBatch) -> Tensor:
        """Logits `[N, K]` of every request's candidates, equal to `forward`'s at that time.

        Both drop out in training mode: call `eval()` first, as `load_model` does.
        """

    @abstractmethod
    def flops(self, num_impressions: int, num_candidates: int) -> int:
        """Floating-point operations of ranking one request (a multiply-add is two)."""

    @property
    def remembers(self) -> bool:
        """Whether it can rank over the memories of histories, by `rank_after`."""
        return False

    def rank_after(
        self, batch: RankBatch, past: Sequence[Tensor | None]
    ) -> tuple[Tensor, list[Tensor]]:
        """`rank` after each request's remembered impressions, and their new memories.

        Raises:
            NotImplementedError: of a ranker that does not remember.
        """
        raise NotImplementedError(f"{type(self).__name__} remembers no history; call rank")

    def compute_in(self, dtype: torch.dtype) -> Ranker:
        """Serves with its transformer's blocks in `dtype`; a ranker without any stays as it is."""
        return self

    def fit_statistics(self, context_RC: Tensor, features: Mapping[str, Tensor]) -> None:
        """Sets the statistics of every numeric feature from a sample; on cold starts.

        Args:
            context_RC: raw context features of some rows, NaN where missing.
            features: sequence features and numeric actions by name, `[M]`; what is not numeric is
            ignored.

        Raises:
            ValueError: a numeric feature of this ranker is not among them.
        """
        columns = {**features, **self.context_encoder.columns(context_RC)}
        for bank in self.modules():
            if not isinstance(bank, NumericBank):
                continue
            absent = [name for name in bank.names if name not in columns]
            if absent:
                raise ValueError(
                    f"statistics want a sample of the numeric feature {absent[0]!r}; pass the "
                    "impressions' features and actions together"
                )
            bank.fit(torch.stack([columns[name] for name in bank.names]))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.parameters()).dtype
