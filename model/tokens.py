# SPDX-License-Identifier: Apache-2.0
"""Impressions to tokens: a post token for what was shown, an action token for what the member did.

Knows nothing of order: whoever interleaves them says which token is where.

Shape suffixes: M impressions; D width of a token; W width of the encoded features.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from feature_repo.kinds import Binary
from feature_repo.spec import Spec
from model.encoders import FeatureEncoder, known_codes


class PostTokens(nn.Module):
    """The sequence features of a post, or of a candidate, projected to a token."""

    def __init__(self, spec: Spec, width: int, embedding_dropout: float) -> None:
        super().__init__()
        self.encoder = FeatureEncoder(
            spec.with_role("sequence"), embedding_dropout=embedding_dropout
        )
        self.linear = nn.Linear(self.encoder.width, width)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Sequence features by name, `[M]` or `[M, E]`, to `[M, D]`."""
        return self.linear(self.encoder(features))


class ActionTokens(nn.Module):
    """What was done with a post: each action no, yes or unknown; numeric ones (dwell) binned."""

    def __init__(self, spec: Spec, width: int) -> None:
        super().__init__()
        actions = spec.with_role("action")
        self.binary = [f.name for f in actions if isinstance(f.kind, Binary)]
        self.encoder = FeatureEncoder([f for f in actions if not isinstance(f.kind, Binary)])
        self.linear = nn.Linear(3 * len(self.binary) + self.encoder.width, width)

    def forward(self, actions: Mapping[str, Tensor]) -> Tensor:
        """Actions by name, `[M]`: 0, 1 or UNKNOWN, and raw numerics, to `[M, D]`."""
        dtype = self.linear.weight.dtype
        parts = []
        if self.binary:
            states = known_codes(torch.stack([actions[n] for n in self.binary], -1), 2)
            parts.append(nn.functional.one_hot(states, 3).flatten(1).to(dtype))
        if self.encoder.width:
            parts.append(self.encoder(actions))
        return self.linear(torch.cat(parts, -1))
