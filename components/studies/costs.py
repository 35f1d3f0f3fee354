# SPDX-License-Identifier: Apache-2.0
"""What a ranker costs: its weights, a step of training, a request.

Timed in this process on a folder of shards, without transport or features. Knows no results.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from components.training.data import evaluation_batches
from feature_repo.spec import Spec
from model.batch import Impressions, RankBatch, TrainBatch
from model.ranker import Ranker
from serving.predictor.rank_batch import SERVING_POSITION

CANDIDATES = 512
REPEATS = 7
STEP_BATCHES = 8
"""Micro-batches whose forward and backward give the milliseconds of a step."""


class RanksRequests(Protocol):
    """Whatever answers a request."""

    def rank(self, batch: RankBatch) -> Tensor:
        """Logits `[N, K]` of the candidates."""


def training_costs(ranker: Ranker, folder: Path) -> dict[str, Any]:
    """What a ranker of the model weighs and computes.

    Returns:
        parameters, gflop of ranking 512 candidates, and step_ms, the median milliseconds of a
        forward and backward over the folder's batches.
    """
    return {
        "parameters": sum(p.numel() for p in ranker.parameters()),
        "gflop": round(ranker.flops(ranker.spec.max_impressions, CANDIDATES) / 1e9, 4),
        "step_ms": round(_step_ms(ranker, folder), 1),
    }


def _step_ms(ranker: Ranker, folder: Path) -> float:
    ranker.train()
    taken = []
    for batch, _ in islice(evaluation_batches(folder, ranker.spec), 1 + STEP_BATCHES):
        taken.append(_milliseconds(partial(training_step, ranker, batch)))
        ranker.zero_grad()
    ranker.eval()
    return statistics.median(taken[1:] or taken)


def _milliseconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - begin)


def training_step(ranker: Ranker, batch: TrainBatch) -> None:
    """A forward and backward through both outputs, to be timed."""
    output = ranker(batch)
    (output.logits_RK.square().mean() + output.auxiliary_AK.square().mean()).backward()


def request_costs(ranker: RanksRequests, folder: Path, spec: Spec) -> dict[str, Any]:
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
    with torch.inference_mode():
        taken = [_milliseconds(partial(ranker.rank, request)) for _ in range(1 + REPEATS)]
    return {
        "request_ms": round(statistics.median(taken[1:]), 2),
        "request_impressions": request.history.num_impressions,
        "request_candidates": CANDIDATES,
    }


def longest_request(batch: TrainBatch, candidates: int) -> RankBatch:
    """A request with the batch's longest sequence as history, when its newest was served.

    Its posts are the candidates, again and again until there are enough; their context is that of
    the batch's targets.
    """
    impressions = batch.impressions
    longest = int(impressions.cu_seqlens.diff().argmax())
    low, high = (int(place) for place in impressions.cu_seqlens[longest : longest + 2])
    history = _sequence(impressions, low, high)
    assert history.time_M is not None
    post_N = torch.arange(candidates) % (high - low) + low
    target_N = torch.arange(candidates) % len(batch.target_R)
    return RankBatch(
        history=history,
        candidates={name: column[post_N] for name, column in impressions.features.items()},
        context_NC=batch.context_RC[target_N],
        cu_candidates=torch.tensor([0, candidates], dtype=torch.int32),
        position_N=torch.full((candidates,), SERVING_POSITION),
        time_N=history.time_M.max().expand(candidates),
    )


def _sequence(impressions: Impressions, low: int, high: int) -> Impressions:
    """The impressions in [low, high) as one sequence."""
    assert impressions.time_M is not None
    return Impressions(
        features={name: column[low:high] for name, column in impressions.features.items()},
        actions={name: column[low:high] for name, column in impressions.actions.items()},
        known_M=impressions.known_M[low:high],
        cu_seqlens=torch.tensor([0, high - low], dtype=torch.int32),
        time_M=impressions.time_M[low:high],
    )
