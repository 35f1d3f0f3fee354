# SPDX-License-Identifier: Apache-2.0
"""The whole model per request: all candidates over one shared history, against one at a time.

The ranker of the design's numbers (d = 256, 6 layers, 4 heads) with random weights on random
requests of the simulator's spec. Both sides run in turns in one process, and answer the same
scores. The share of the limit is the model's own FLOP count over the rate of a plain matrix
product of the same widths, measured beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._record import finish, medians_ms, parser
from feature_repo.specs import SIMULATOR
from model import FeedSRConfig, build_ranker
from tests.builders import make_rank_batch, select_request

SINGLE = 4
"""Candidates that are ranked one at a time; each costs a whole forward over the history."""


def matmul_gflops(rows: int, width: int, repeats: int) -> float:
    """The rate of `[rows, width] @ [width, 4 width]`, the MLP's product, in GFLOP/s."""
    x, w = torch.randn(rows, width), torch.randn(width, 4 * width)
    ms = medians_ms({"matmul": lambda: x @ w}, repeats)["matmul"]
    return 2 * rows * width * 4 * width / ms / 1e6


def measure(impressions: int, candidates: int, config: FeedSRConfig, repeats: int) -> dict:  # type: ignore[type-arg]
    """One setting: shared forward, one candidate alone, agreement, and the share of the limit."""
    ranker = build_ranker(config, SIMULATOR, seed=0).eval()
    request = make_rank_batch(SIMULATOR, 0, [impressions], [candidates])
    alone = [select_request(request, 0, [i]) for i in range(min(SINGLE, candidates))]
    with torch.inference_mode():
        shared = ranker.rank(request)[: len(alone)]
        single = torch.cat([ranker.rank(one) for one in alone])
        variants = {
            "shared": lambda: ranker.rank(request),
            "one": lambda: ranker.rank(alone[0]),
        }
        ms = medians_ms(variants, repeats)
        limit = matmul_gflops(2 * impressions + candidates, config.width, repeats)
    flops = ranker.flops(impressions, candidates)
    return {
        "T": impressions,
        "N": candidates,
        "shared_ms": ms["shared"],
        "one_at_a_time_ms_per_candidate": ms["one"],
        "one_at_a_time_over_shared": round(candidates * ms["one"] / ms["shared"], 1),
        "largest_difference": float((shared - single).abs().max()),
        "gflop": round(flops / 1e9, 2),
        "gflops": round(flops / ms["shared"] / 1e6, 1),
        "matmul_gflops": round(limit, 1),
    }


def main() -> None:
    """Measures, prints a line a setting, and ends with one JSON line."""
    options = parser(__doc__)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = options.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    config = FeedSRConfig(width=256, layers=6, heads=4)
    sizes, repeats = [(100, 32), (100, 512), (1000, 32), (1000, 512)], 9
    if arguments.toy:
        config, sizes, repeats = FeedSRConfig(width=16, layers=2, heads=2), [(10, 4)], 2
    rows = []
    for impressions, candidates in sizes:
        rows.append(measure(impressions, candidates, config, repeats))
        print(rows[-1], flush=True)
    shape = {"width": config.width, "layers": config.layers, "heads": config.heads}
    finish("rank", shape | {"settings": rows}, threads=arguments.threads, save=arguments.save)


if __name__ == "__main__":
    main()
