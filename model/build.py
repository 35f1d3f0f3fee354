# SPDX-License-Identifier: Apache-2.0
"""From a configuration to a ranker: the one place that knows which rankers there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from feature_repo.spec import Spec
from model.config import DCNv2Config, FeedSRConfig, RankerConfig
from model.dcnv2 import DCNv2
from model.feed_sr import FeedSR
from model.ranker import Ranker
from model.rivals.appended import Appended
from model.rivals.config import AppendedConfig, LiGRConfig, LiRankConfig, TransActConfig
from model.rivals.ligr import LiGR
from model.rivals.lirank import LiRank
from model.rivals.transact import TransAct

RANKERS: dict[str, tuple[type[RankerConfig], Callable[[Any, Spec], Ranker]]] = {
    "feed_sr": (FeedSRConfig, FeedSR),
    "dcnv2": (DCNv2Config, DCNv2),
    "lirank": (LiRankConfig, LiRank),
    "transact": (TransActConfig, TransAct),
    "appended": (AppendedConfig, Appended),
    "ligr": (LiGRConfig, LiGR),
}
"""Each ranker's configuration and class, by the name that a checkpoint remembers."""


def build(config: RankerConfig, spec: Spec, seed: int) -> Ranker:
    """A new ranker; the same seed, the same weights. Torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RANKERS[config.ranker][1](config, spec)
