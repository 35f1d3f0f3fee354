# SPDX-License-Identifier: Apache-2.0
"""The whole model per request: all candidates over one shared history, against one at a time.

    python -m benchmarks.rank [--dtype float32 bfloat16] [--device cuda] [--threads 2] [--save]
                              [--toy]

The ranker of the design's numbers (d = 256, 6 layers, 4 heads) with random weights, its blocks in
the dtype and freed memory kept as in the predictor, on random requests of the simulator's spec; a
batch of requests is one packed forward:
  shared         the whole batch
  one_at_a_time  the whole history again for every candidate; one is run, and scaled to all
Both answer the same scores. The share of the limit is the model's own FLOP count over the rate of a
plain product of its MLP's shape, `[tokens, d] @ [d, 4 d]` in its dtype, timed in the same turns.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch

from benchmarks._record import (
    Result,
    finish,
    hardware,
    matmul,
    medians_ms,
    over,
    parser,
    rates,
    start,
)
from feature_repo.specs import SIMULATOR
from model import FeedSRConfig, build_ranker
from model.batch import RankBatch
from model.feed_sr import FeedSR
from serving.predictor.allocator import keep_freed_memory
from tests.builders import make_rank_batch, select_request

CONFIG = FeedSRConfig(width=256, layers=6, heads=4)
GRID = tuple(product((100, 1000), (32, 512), (1, 8)))
"""T, N and the requests of a batch."""

FEW = 4
"""Candidates that are also ranked alone before anything is timed, to see the same scores."""

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.15}
"""How far logits may lie apart; of bfloat16 two roundings of many layers."""


def noisy(config: FeedSRConfig) -> FeedSR:
    """A ranker whose every parameter matters; an untrained one hardly looks at the history."""
    ranker = build_ranker(config, SIMULATOR, seed=0).eval()
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    assert isinstance(ranker, FeedSR)
    return ranker


def difference(ranker: FeedSR, batch: RankBatch, device: str) -> float:
    """The largest difference of a logit between the shared forward and a candidate alone."""
    shared = ranker.rank(batch.to(device))
    few = range(min(FEW, int(batch.cu_candidates[1])))
    alone = torch.cat([ranker.rank(select_request(batch, 0, [i]).to(device)) for i in few])
    return float((shared[: len(few)] - alone).abs().max())


def measure(
    ranker: FeedSR, sizes: tuple[int, int, int], dtype: torch.dtype, repeats: int
) -> Result:
    """One setting: shared forward, one candidate alone, agreement, and the share of the limit."""
    impressions, candidates, requests = sizes
    device = next(ranker.parameters()).device.type
    drawn = make_rank_batch(SIMULATOR, 0, [impressions] * requests, [candidates] * requests)
    batch, one = drawn.to(device), select_request(drawn, 0, [0]).to(device)
    tokens, width = requests * (2 * impressions + candidates), ranker.config.width
    plain, plain_flops = matmul((tokens, width, 4 * width), dtype, device)
    variants: dict[str, Callable[[], object]] = {
        "shared": lambda: ranker.rank(batch),
        "one_at_a_time": lambda: ranker.rank(one),
        "matmul": plain,
    }
    with torch.inference_mode():
        apart = difference(ranker, drawn, device)
        assert apart < TOLERANCE[dtype], f"the two sides are {apart} apart"
        ms = medians_ms(variants, repeats, device)
    limit = plain_flops / ms.pop("matmul") / 1e6
    facts = rates({"shared": requests * ranker.flops(impressions, candidates)}, ms, limit)
    ms["one_at_a_time"] = round(ms["one_at_a_time"] * requests * candidates, 4)
    return Result(
        setting={
            "T": impressions,
            "N": candidates,
            "batch": requests,
            "dtype": str(dtype).removeprefix("torch."),
            "repeats": repeats,
        },
        median_ms=ms,
        ratios=over(ms, {"one_at_a_time_over_shared": ("one_at_a_time", "shared")}),
        facts=facts
        | {
            "requests_per_second": round(1e3 * requests / ms["shared"], 1),
            "largest_difference": apart,
            "one_at_a_time": f"1 of {requests * candidates} candidates run, scaled to all",
        },
    )


def dtypes(wanted: list[str], device: str) -> list[torch.dtype]:
    """What was asked for; else float32, and bfloat16 where the device multiplies it."""
    sets = hardware("cpu", 1)["instruction_sets"]
    has = device == "cuda" or any(name in sets for name in ("avx512_bf16", "amx_bf16", "bf16"))
    names = wanted or (["float32", "bfloat16"] if has else ["float32"])
    return [getattr(torch, name) for name in names]


def main() -> None:
    """Measures, prints a line a setting, and ends with one JSON line."""
    options = parser(__doc__)
    options.add_argument("--dtype", nargs="+", choices=["float32", "bfloat16"], default=[])
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = start(options)
    keep_freed_memory()
    config, grid = (CONFIG, GRID)
    if arguments.toy:
        config, grid = FeedSRConfig(width=16, layers=2, heads=2), ((10, 4, 1), (10, 4, 2))
    results = []
    for dtype in dtypes(arguments.dtype, arguments.device):
        ranker = noisy(config).to(arguments.device)
        if dtype != torch.float32:
            ranker.compute_in(dtype)
        for sizes in grid:
            repeats = 2 if arguments.toy else 7 if sizes[2] == 1 else 5
            results.append(measure(ranker, sizes, dtype, repeats))
            print(results[-1], flush=True)
    finish(
        "rank",
        results,
        threads=arguments.threads,
        save=arguments.save,
        device=arguments.device,
    )


if __name__ == "__main__":
    main()
