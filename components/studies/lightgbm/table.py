# SPDX-License-Identifier: Apache-2.0
"""Targets and candidates as rows of one table of numbers, as boosted trees want them.

Hashed ids are left out: a tree can only split them one by one, and the counters say what is known
of a post or an actor. The feed position is a column: as logged in training, as serving assumes it
in evaluation. Knows the spec; does not know what learns from the table.

Shape suffixes: R rows (targets or candidates); F columns of the table; C context columns; E width
of one feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from feature_repo.kinds import UNKNOWN, Categorical, Embedding, Feature, HashedId
from feature_repo.spec import Spec
from model.batch import TrainBatch

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The table's columns, from the spec: the position, sequence features, context features."""

    names: list[str]
    categorical: list[int]

    @classmethod
    def from_spec(cls, spec: Spec) -> Columns:
        """The columns of a spec, without its hashed ids."""
        names, categorical = ["position"], []
        for feature in _features(spec):
            if isinstance(feature.kind, Categorical):
                categorical.append(len(names))
            if isinstance(feature.kind, Embedding):
                names += [f"{feature.name}_{i}" for i in range(feature.kind.dim)]
            else:
                names.append(feature.name)
        return cls(names=names, categorical=categorical)


def target_table(batch: TrainBatch, spec: Spec) -> Floats:
    """The targets of a batch as rows of the table `[R, F]`."""
    features = {n: c[batch.target_R] for n, c in batch.impressions.features.items()}
    return make_table(features, batch.context_RC, batch.position_R, spec)


def make_table(
    features: Mapping[str, Tensor], context_RC: Tensor, position_R: Tensor, spec: Spec
) -> Floats:
    """float32 `[R, F]`, NaN where missing: an unknown code or position, a vector of zeros.

    Args:
        features: sequence features by name, `[R]` or `[R, E]`.
        context_RC: raw context features.
        position_R: feed positions.
        spec: says which columns there are, in the order of `Columns.from_spec`.
    """
    position = position_R.cpu().float()[:, None]
    parts = [torch.where(position == UNKNOWN, torch.nan, position)]
    for feature in _features(spec):
        if feature.role == "sequence":
            column = features[feature.name]
        else:
            column = context_RC[:, spec.context_slices[feature.name]]
        column = column.cpu().float()
        parts.append(_known(column[:, None] if column.ndim == 1 else column, feature))
    return torch.cat(parts, -1).numpy()


def _features(spec: Spec) -> list[Feature]:
    features = (*spec.with_role("sequence"), *spec.with_role("context"))
    return [f for f in features if not isinstance(f.kind, HashedId)]


def _known(column_RE: Tensor, feature: Feature) -> Tensor:
    """The column with NaN in the place of what is unknown."""
    if isinstance(feature.kind, Categorical):
        known = (column_RE >= 0) & (column_RE < feature.kind.cardinality)
        return torch.where(known, column_RE, torch.nan)
    if isinstance(feature.kind, Embedding):
        return torch.where((column_RE == 0).all(-1, keepdim=True), torch.nan, column_RE)
    return column_RE
