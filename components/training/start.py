# SPDX-License-Identifier: Apache-2.0
"""What a training starts from: a new ranker with the statistics of a sample, or earlier weights.

It reads shards and models. Which of the two a run wants, it does not decide.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from feature_repo.spec import Spec
from kernels.loader import Loader, Packed, read_shard
from model import RankerConfig, build_ranker
from model.checkpoint import load_model
from model.ranker import Ranker

SAMPLE_IMPRESSIONS = 2_000_000
"""Statistics and weights are estimated on so many impressions of evenly spaced shards."""


def sample(loader: Loader, impressions: int = SAMPLE_IMPRESSIONS) -> list[Packed]:
    """Whole shards, evenly spaced, that together hold about so many impressions."""
    total = sum(shard.impressions for shard in loader.shards)
    every = max(total // impressions, 1)
    chosen = loader.shards[::every]
    return [read_shard(shard.path, loader.form, checksum=shard.checksum) for shard in chosen]


def cold_model(config: RankerConfig, spec: Spec, seed: int, packs: list[Packed]) -> Ranker:
    """A new ranker that knows the sample's statistics."""
    model = build_ranker(config, spec, seed)
    features = [*spec.with_role("sequence"), *spec.with_role("action")]
    columns = {f.name: np.concatenate([p.columns[f.name] for p in packs]) for f in features}
    context_RC = np.concatenate([pack.context_RC for pack in packs])
    tensors = {name: torch.from_numpy(values) for name, values in columns.items()}
    model.fit_statistics(torch.from_numpy(context_RC), tensors)
    return model


def warm_model(config: RankerConfig, spec: Spec, folder: Path) -> Ranker:
    """The ranker in a folder.

    Raises:
        ValueError: it cannot be loaded, or is of another spec or configuration.
    """
    model, _ = load_model(folder, spec)
    if model.config != config:
        raise ValueError(
            f"the model in {folder} has another configuration than the run; start cold, or train "
            "with the configuration it has"
        )
    return model
