# SPDX-License-Identifier: Apache-2.0
"""What must not change between releases: `python -m tests.model.golden` records it anew.

`golden.json` holds of every ranker its default configuration, its weights in order (name and shape;
a checkpoint of an earlier release is loaded by them, and the optimiser's state by their number),
what a seed makes of them, what the parts that a study exchanges add to and take from Feed-SR's, and
scores of patterned weights on a patterned batch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from feature_repo.kinds import Categorical, Embedding, Feature, HashedId, Numeric
from model import DCNv2Config, FeedSRConfig, RankerConfig, build_ranker
from model.batch import Impressions, RankBatch, TrainBatch
from model.ranker import Ranker
from model.rivals import AppendedConfig, LiGRConfig, LiRankConfig, TransActConfig
from tests.builders import TINY, offsets_of
from tests.model.patterned import numbers, patterned
from tests.model.variants import HEADS, VARIANTS

FILE = Path(__file__).with_suffix(".json")
RANKERS: dict[str, RankerConfig] = {
    config.ranker: config
    for config in (
        FeedSRConfig(),
        DCNv2Config(),
        LiRankConfig(),
        TransActConfig(),
        AppendedConfig(),
        LiGRConfig(),
    )
}
PARTS: dict[str, dict[str, Any]] = {
    **VARIANTS,
    "swiglu": {"mlp": "swiglu"},
    **{f"head {name}": {"head": {"name": name}} for name in HEADS},
}


def weights_of(ranker: Ranker) -> list[str]:
    """Names and shapes of all that a checkpoint holds, in order; what is not learned says so."""
    learned = dict(ranker.named_parameters())
    return [
        f"{name} {list(tensor.shape)}{'' if name in learned else ' buffer'}"
        for name, tensor in ranker.state_dict().items()
    ]


def seeded(config: RankerConfig) -> list[float]:
    """The sum of each new weight of seed 3, each element times its place from one on."""
    ranker = build_ranker(config, TINY, seed=3).double()
    return [
        float(p.detach().flatten() @ torch.arange(1, p.numel() + 1, dtype=p.dtype)) / p.numel()
        for p in ranker.parameters()
    ]


def part_of(changes: dict[str, Any]) -> dict[str, list[str]]:
    """What a changed part adds to Feed-SR's weights, and what of them is gone."""
    default = weights_of(build_ranker(FeedSRConfig(), TINY))
    changed = weights_of(build_ranker(FeedSRConfig.model_validate(changes), TINY))
    return {
        "added": [line for line in changed if line not in default],
        "gone": [line for line in default if line not in changed],
    }


def scores_of(config: RankerConfig) -> dict[str, list[list[float]]]:
    """Logits of the two forwards, with weights and rows that no generator drew."""
    ranker = patterned(build_ranker(config, TINY), scale=0.2)
    with torch.inference_mode():
        output = ranker(train_batch())
        return {
            "forward": output.logits_RK.tolist(),
            "auxiliary": output.auxiliary_AK.tolist(),
            "rank": ranker.rank(rank_batch()).tolist(),
        }


def column(feature: Feature, rows: int, start: int) -> Tensor:
    """A patterned column, in which every seventh row is unknown."""
    index = torch.arange(start, start + rows)
    unknown = index % 7 == 6
    kind = feature.kind
    if isinstance(kind, HashedId):
        return torch.where(unknown, 0, 1 + (index * 2_654_435_761) % 999_983)
    if isinstance(kind, Categorical):
        return torch.where(unknown, -1, index % kind.cardinality).to(torch.int32)
    if isinstance(kind, Embedding):
        vector = numbers(rows, kind.dim, start=start).half()
        return torch.where(unknown[:, None], 0, vector)
    if isinstance(kind, Numeric):
        return torch.where(unknown, torch.nan, 3 * numbers(rows, start=start)).float()
    return torch.where(unknown, -1, index % 2).to(torch.int8)


def columns(role: Any, rows: int, start: int) -> dict[str, Tensor]:
    """Patterned columns of all features of a role."""
    features = TINY.with_role(role)
    return {f.name: column(f, rows, start + 11 * i) for i, f in enumerate(features)}


def context(rows: int, start: int) -> Tensor:
    """The patterned context matrix `[rows, C]`."""
    parts = [c.float().reshape(rows, -1) for c in columns("context", rows, start).values()]
    return torch.cat(parts, -1)


def impressions(lengths: list[int], known: list[int], start: int) -> Impressions:
    """Patterned histories."""
    rows = sum(lengths)
    return Impressions(
        features=columns("sequence", rows, start),
        actions=columns("action", rows, start),
        known_M=torch.tensor(known, dtype=torch.int32),
        cu_seqlens=offsets_of(lengths),
        time_M=1_700_000_000_000 + 3_723_000 * torch.arange(rows),
    )


def train_batch() -> TrainBatch:
    """Sequences of 5, 0 and 2 impressions; of the first, two pairs were served together."""
    return TrainBatch(
        impressions=impressions([5, 0, 2], [0, 1, 1, 3, 3, 0, 1], start=3),
        target_R=torch.tensor([0, 2, 4, 6]),
        context_RC=context(4, start=5),
        labels_RK=torch.zeros(4, 3),
        weight_R=torch.ones(4),
        position_R=torch.tensor([-1, 0, 59, 60]),
        auxiliary_A=torch.tensor([3, 5]),
        auxiliary_labels_AK=torch.zeros(2, 3),
    )


def rank_batch() -> RankBatch:
    """A member with three impressions and two candidates, and a new one with one candidate."""
    return RankBatch(
        history=impressions([3, 0], [0, 0, 2], start=8),
        candidates=columns("sequence", 3, start=40),
        context_NC=context(3, start=21),
        cu_candidates=offsets_of([2, 1]),
        position_N=torch.tensor([5, 5, 5]),
        time_N=torch.tensor([1_700_000_500_000, 1_700_000_500_000, 1_700_009_000_000]),
    )


def recorded() -> dict[str, Any]:
    """All that is kept."""
    return {
        "configurations": {n: c.model_dump(mode="json") for n, c in RANKERS.items()},
        "weights": {n: weights_of(build_ranker(c, TINY)) for n, c in RANKERS.items()},
        "seeded": {n: seeded(c) for n, c in RANKERS.items()},
        "parts": {name: part_of(changes) for name, changes in PARTS.items()},
        "scores": {n: scores_of(c) for n, c in RANKERS.items()},
        "part_scores": {
            name: scores_of(FeedSRConfig.model_validate(changes))["rank"]
            for name, changes in PARTS.items()
        },
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(recorded(), indent=1) + "\n")
