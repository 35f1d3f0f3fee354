# SPDX-License-Identifier: Apache-2.0
"""The rankers, Feed-SR and those it is compared with: PyTorch, and no files beyond checkpoints.

This room knows features, batches and weights. It refuses to know logs, stores and requests.
Importing it loads the configurations alone; torch is loaded when a ranker is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from model.config import DCNv2Config, FeedSRConfig, HeadConfig, RankerConfig

if TYPE_CHECKING:
    from feature_repo.spec import Spec
    from model.ranker import Ranker

__all__ = ["DCNv2Config", "FeedSRConfig", "HeadConfig", "RankerConfig", "build_ranker"]


def build_ranker(config: RankerConfig, spec: Spec, seed: int = 0) -> Ranker:
    """A new ranker for a feature spec; the same seed gives the same weights."""
    from model.build import build

    return build(config, spec, seed)
