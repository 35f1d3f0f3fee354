# SPDX-License-Identifier: Apache-2.0
"""Decoded requests to probabilities: one packed forward, over remembered histories where it can.

It knows the model and the history cache; it knows neither KServe nor the wire. One thread calls it.

Shape suffixes: N candidates of one request, K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from feature_repo.spec import Freshness
from model.ranker import Ranker
from serving.predictor.history_cache import TOKENS, HistoryCache
from serving.predictor.rank_batch import build_rank_batch, known_history
from serving.wire import RankRequest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """Where and how the model runs.

    Attributes:
        device: "cpu", or "cuda" for a GPU.
        dtype: what the transformer's blocks compute in (`DTYPES`); encoders and head stay float32.
        history_cache_bytes: what the keys and values of histories seen before may take; 0
            remembers none.

    Raises:
        ValueError: an unknown dtype, or a negative size.
    """

    device: str = "cpu"
    dtype: str = "float32"
    history_cache_bytes: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}, want one of {', '.join(DTYPES)}")
        if self.history_cache_bytes < 0:
            raise ValueError(
                f"the history cache has {self.history_cache_bytes} bytes, want 0 (no cache) or more"
            )


class Scorer:
    """A model, ready to score requests of its spec.

    Args:
        model: in eval mode; it is moved to the device and its blocks to the dtype.
        freshness: how fresh the histories were that it was trained with.
        config: where and how.
    """

    def __init__(self, model: Ranker, freshness: Freshness, config: ScorerConfig) -> None:
        self.freshness, self.spec = freshness, model.spec
        self.device = torch.device(config.device)
        if config.dtype != "float32":
            model.compute_in(DTYPES[config.dtype])
        self.model = model.to(self.device)
        self.cache: HistoryCache | None = None
        if model.remembers and config.history_cache_bytes:
            self.cache = HistoryCache(config.history_cache_bytes)

    def __call__(self, requests: list[RankRequest]) -> Sequence[npt.NDArray[np.float32]]:
        """The probabilities `[N, K]` of each request; none of no request.

        A candidate that a request names twice has the same bits twice.
        """
        if not requests:
            return []
        once, places = zip(*(request.distinct() for request in requests), strict=True)
        with torch.inference_mode():
            logits_NK = self._logits(list(once))
            probabilities = logits_NK.float().sigmoid().cpu().numpy()
        parts = np.split(probabilities, np.cumsum([r.num_candidates for r in once])[:-1])
        return [part[place_N] for part, place_N in zip(parts, places, strict=True)]

    def _logits(self, requests: list[RankRequest]) -> Tensor:
        if self.cache is None:
            batch = build_rank_batch(self.spec, self.freshness, requests)
            return self.model.rank(batch.to(self.device))
        histories = [known_history(self.spec, self.freshness, r) for r in requests]
        past = [self.cache.get(h) for h in histories]
        kept = [0 if p is None else p.shape[2] // TOKENS for p in past]
        batch = build_rank_batch(self.spec, self.freshness, requests, kept)
        logits_NK, memories = self.model.rank_after(batch.to(self.device), past)
        for history, count, memory in zip(histories, kept, memories, strict=True):
            if count < history.batch.num_rows:
                self.cache.put(history, memory)
        return logits_NK
