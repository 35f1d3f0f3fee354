# SPDX-License-Identifier: Apache-2.0
"""Late fusion against early: what context features cost when every impression's token carries them.

    python -m benchmarks.fusion [--threads 2] [--save] [--toy]

Feed-SR with random weights on random batches of KuaiRand's spec, whose context has 39 columns:
  late     the head gets them, for targets and candidates alone
  third    popularity in the tokens, the rest late
  early    all in the tokens
Timed in turns: a training step's forward and backward on sequences in which every impression is a
target, and ranking. Beside the times, the bytes of an impression in a history: early fusion has to
keep each one's features as they were when it was served.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks._record import Result, finish, medians_ms, over, parser, start
from components.studies.config import fused_early
from components.studies.costs import training_step
from components.studies.experiments import CONTEXT, POPULARITY
from feature_repo.spec import Spec
from feature_repo.specs import KUAIRAND
from model import FeedSRConfig, build_ranker
from model.batch import RankBatch, TrainBatch
from model.ranker import Ranker
from tests.builders import make_rank_batch, make_train_batch

SPECS = {
    "late": KUAIRAND,
    "third": fused_early(KUAIRAND, POPULARITY),
    "early": fused_early(KUAIRAND, CONTEXT),
}
SHAPES = (
    FeedSRConfig(width=64, layers=2, heads=2),
    FeedSRConfig(width=256, layers=6, heads=4),
)
SEQUENCES, LENGTH = 16, 200
HISTORY, CANDIDATES = 1000, 512


def step(ranker: Ranker, batch: TrainBatch) -> None:
    """A forward and backward."""
    ranker.zero_grad()
    training_step(ranker, batch)


def rank(ranker: Ranker, batch: RankBatch) -> None:
    """A request, without gradients."""
    with torch.inference_mode():
        ranker.rank(batch)


def impression_bytes(spec: Spec) -> int:
    """Bytes of one impression in a history, before compression."""
    return sum(int(field.type.bit_width) for field in spec.history_schema) // 8


def measure(config: FeedSRConfig, small: int, repeats: int) -> Result:
    """One shape of the model; `small` divides every size of the batches."""
    variants: dict[str, Callable[[], object]] = {}
    lengths = [LENGTH // small] * SEQUENCES
    for name, spec in SPECS.items():
        ranker = build_ranker(config, spec, seed=0)
        train = make_train_batch(spec, 0, lengths, "day", target_share=1.0)
        request = make_rank_batch(spec, 0, [HISTORY // small], [CANDIDATES // small])
        variants[f"step_{name}"] = partial(step, ranker, train)
        variants[f"rank_{name}"] = partial(rank, ranker, request)
    ms = medians_ms(variants, repeats, "cpu")
    ratios = {
        f"{what}_{name}_over_late": (f"{what}_{name}", f"{what}_late")
        for what in ("step", "rank")
        for name in ("third", "early")
    }
    return Result(
        setting={
            "width": config.width,
            "layers": config.layers,
            "sequences": SEQUENCES,
            "impressions": LENGTH // small,
            "T": HISTORY // small,
            "N": CANDIDATES // small,
            "repeats": repeats,
        },
        median_ms=ms,
        ratios=over(ms, ratios),
        facts={f"impression_bytes_{name}": impression_bytes(s) for name, s in SPECS.items()},
    )


def main() -> None:
    """Measures, prints a line a setting, and ends with one JSON line."""
    arguments = start(parser(__doc__))
    shapes = SHAPES[:1] if arguments.toy else SHAPES
    results = []
    for config in shapes:
        results.append(measure(config, *((10, 2) if arguments.toy else (1, 15))))
        print(results[-1], flush=True)
    finish("fusion", results, threads=arguments.threads, save=arguments.save, device="cpu")


if __name__ == "__main__":
    main()
