# SPDX-License-Identifier: Apache-2.0
"""The history cache: decoded requests to probabilities, by what is remembered of their histories.

    python -m benchmarks.history_cache [--dtype float32 bfloat16] [--threads 2] [--save] [--toy]

The ranker of the design's numbers (d = 256, 6 layers, 4 heads) with random weights, as the
predictor runs it (`serving.predictor.scorer`: packing, cache and model; no wire), on members of the
simulator's spec:
  off       no cache
  miss      nothing is remembered; the histories are remembered afterwards
  extended  all but the last impression is
  hit       the whole history is
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import product

import numpy as np

from benchmarks._record import Result, finish, medians_ms, over, parser, start
from benchmarks.rank import CONFIG, dtypes, noisy
from feature_repo.spec import DAY_MS
from feature_repo.specs import SIMULATOR
from model import FeedSRConfig
from serving.history import decode_history
from serving.predictor.allocator import keep_freed_memory
from serving.predictor.history_cache import HistoryCache
from serving.predictor.scorer import Scorer, ScorerConfig
from serving.wire import RankRequest
from tests.serving_builders import NOW_MS, history_value, rank_request

GRID = tuple(product((100, 1000), (32, 512), (1, 8)))
"""T, N and the requests of a batch."""

ROOM = 2**31
TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2}
"""How far probabilities may lie apart; as the parity step allows."""


def ask(member: int, impressions: int, candidates: int) -> RankRequest:
    """A request whose whole history is known."""
    history = decode_history(history_value(SIMULATOR, impressions, member), SIMULATOR)
    drawn = rank_request(SIMULATOR, 0, candidates, member)
    return dataclasses.replace(drawn, history=history, time_ms=NOW_MS + 2 * DAY_MS)


def without_last(request: RankRequest) -> RankRequest:
    """The same before its last impression."""
    whole = request.history
    batch = whole.batch.slice(0, whole.batch.num_rows - 1)
    return dataclasses.replace(
        request, history=dataclasses.replace(whole, batch=batch, count=whole.count - 1)
    )


class Cached:
    """A scorer whose cache is set before each call."""

    def __init__(self, scorer: Scorer, requests: list[RankRequest]) -> None:
        self.scorer, self.requests = scorer, requests

    def after(self, seen: list[RankRequest]) -> Callable[[], list[np.ndarray]]:
        """Scores the requests where exactly the histories of `seen` are remembered."""
        self.scorer.cache = HistoryCache(ROOM)
        if seen:
            self.scorer(seen)
        kept = [(r.history, self.scorer.cache.get(r.history)) for r in seen]

        def run() -> list[np.ndarray]:
            self.scorer.cache = HistoryCache(ROOM)
            for history, memory in kept:
                assert memory is not None
                self.scorer.cache.put(history, memory)
            return list(self.scorer(self.requests))

        return run


def measure(sizes: tuple[int, int, int], config: FeedSRConfig, dtype: str, repeats: int) -> Result:
    """One setting, once all ways gave the same probabilities."""
    impressions, candidates, count = sizes
    requests = [ask(member, impressions, candidates) for member in range(1, count + 1)]
    ranker = noisy(config)
    off = Scorer(ranker, "day", ScorerConfig(dtype=dtype))
    on = ScorerConfig(dtype=dtype, history_cache_bytes=ROOM)
    cached = Cached(Scorer(ranker, "day", on), requests)
    variants: dict[str, Callable[[], object]] = {
        "off": lambda: off(requests),
        "miss": cached.after([]),
        "extended": cached.after([without_last(r) for r in requests]),
        "hit": cached.after(requests),
    }
    want = np.concatenate(off(requests))
    apart = {
        name: float(np.abs(np.concatenate(run()) - want).max())  # type: ignore[call-overload]
        for name, run in variants.items()
    }
    assert max(apart.values()) < TOLERANCE[dtype], apart
    ms = medians_ms(variants, repeats)
    pairs = {f"off_over_{name}": ("off", name) for name in ("miss", "extended", "hit")}
    assert cached.scorer.cache is not None
    return Result(
        setting={"T": impressions, "N": candidates, "batch": count, "dtype": dtype},
        median_ms=ms,
        ratios=over(ms, pairs),
        facts={
            "repeats": repeats,
            "largest_difference": apart,
            "bytes_per_history": cached.scorer.cache.nbytes // count,
        },
    )


def main() -> None:
    """Measures, prints a line a setting, and ends with one JSON line."""
    options = parser(__doc__)
    options.add_argument("--dtype", nargs="+", choices=["float32", "bfloat16"], default=[])
    arguments = start(options)
    keep_freed_memory()
    config, grid, repeats = CONFIG, GRID, 7
    if arguments.toy:
        config, grid, repeats = FeedSRConfig(width=16, layers=2, heads=2), ((10, 4, 1),), 2
    results = []
    for dtype in dtypes(arguments.dtype, "cpu"):
        for sizes in grid:
            results.append(measure(sizes, config, str(dtype).removeprefix("torch."), repeats))
            print(results[-1], flush=True)
    finish("history_cache", results, threads=arguments.threads, save=arguments.save)


if __name__ == "__main__":
    main()
