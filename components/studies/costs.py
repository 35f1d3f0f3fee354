# SPDX-License-Identifier: Apache-2.0
"""What a ranker costs: its weights, a step of training, a request.

Timed in this process on a folder of shards, without transport or features. Knows no results.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch

from components.studies.lightgbm.ranker import LightGBMRanker
from components.training.data import evaluation_batches
from feature_repo.spec import Spec
from model.batch import Impressions, RankBatch, TrainBatch
from model.ranker import Ranker
from serving.predictor.rank_batch import SERVING_POSITION

CANDIDATES = 512
REPEATS = 7
STEP_BATCHES = 8
"""Micro-batches whose forward and backward give the milliseconds of a step."""


def costs(ranker: Ranker | LightGBMRanker, folder: Path) -> dict[str, Any]:
    """Parameters, GFLOP of ranking 512 candidates, and the median milliseconds of a step's forward
    and backward; of trees there is none of these.
    """
    if isinstance(ranker, LightGBMRanker):
        return {}
    ranker.train()
    taken = []
    for batch, _ in evaluation_batches(folder, ranker.spec):
        begin = time.perf_counter()
        training_step(ranker, batch)
        taken.append(1e3 * (time.perf_counter() - begin))
        ranker.zero_grad()
        if len(taken) > STEP_BATCHES:
            break
    ranker.eval()
    return {
        "parameters": sum(p.numel() for p in ranker.parameters()),
        "gflop": round(ranker.flops(ranker.spec.max_impressions, CANDIDATES) / 1e9, 4),
        "step_ms": round(statistics.median(taken[1:] or taken), 1),
    }


def training_step(ranker: Ranker, batch: TrainBatch) -> None:
    """A forward and backward through both outputs, to be timed."""
    output = ranker(batch)
    (output.logits_RK.square().mean() + output.auxiliary_AK.square().mean()).backward()


def request_ms(ranker: Ranker | LightGBMRanker, folder: Path, spec: Spec) -> dict[str, Any]:
    """Median milliseconds of `rank` for the longest history of a folder's first batch with targets.

    Returns:
        request_ms and the setting: request_impressions, request_candidates.

    Raises:
        ValueError: there are no shards, they do not fit the spec, or they hold no target.
    """
    batches = (batch for batch, _ in evaluation_batches(folder, spec) if len(batch.target_R))
    batch = next(batches, None)
    if batch is None:
        raise ValueError(f"the shards in {folder} hold no target whose request could be timed")
    request = longest_request(batch, CANDIDATES)
    taken = []
    with torch.inference_mode():
        for _ in range(1 + REPEATS):
            begin = time.perf_counter()
            ranker.rank(request)
            taken.append(1e3 * (time.perf_counter() - begin))
    return {
        "request_ms": round(statistics.median(taken[1:]), 2),
        "request_impressions": request.history.num_impressions,
        "request_candidates": CANDIDATES,
    }


def longest_request(batch: TrainBatch, candidates: int) -> RankBatch:
    """A request with the batch's longest sequence as history, and its posts as candidates, again
    and again until there are enough; their context is that of the batch's targets. It comes when
    the newest of the history was served.
    """
    impressions = batch.impressions
    lengths = impressions.cu_seqlens.diff()
    longest = int(lengths.argmax())
    low, high = (int(x) for x in impressions.cu_seqlens[longest : longest + 2])
    assert impressions.time_M is not None
    time_M = impressions.time_M[low:high]
    post_N = torch.arange(candidates) % (high - low) + low
    target_N = torch.arange(candidates) % len(batch.target_R)
    history = Impressions(
        features={name: column[low:high] for name, column in impressions.features.items()},
        actions={name: column[low:high] for name, column in impressions.actions.items()},
        known_M=impressions.known_M[low:high],
        cu_seqlens=torch.tensor([0, high - low], dtype=torch.int32),
        time_M=time_M,
    )
    return RankBatch(
        history=history,
        candidates={name: column[post_N] for name, column in impressions.features.items()},
        context_NC=batch.context_RC[target_N],
        cu_candidates=torch.tensor([0, candidates], dtype=torch.int32),
        position_N=torch.full((candidates,), SERVING_POSITION),
        time_N=time_M.max().expand(candidates),
    )
