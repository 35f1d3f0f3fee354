# SPDX-License-Identifier: Apache-2.0
"""The loader on this machine: an epoch against a PyTorch DataLoader, and whether training waits.

    python -m benchmarks.loader [--threads 2] [--save] [--toy]

Random shards with KuaiRand's columns (Arrow IPC, lz4), the same for all sides, from a warm page
cache. An epoch is everything from the files to packed batches: ours with checksums and all checks,
the DataLoader's (two workers that stay, one decoded shard each, NumPy rows) without any. A turn is
three epochs, since allocators give memory back while the other sides run. *plain*
is what the DataLoader does; *training* also sorts by length and shuffles inside sessions, which the
DataLoader does not. *training step* is the trainer's own loop over Feed-SR at the size of the
shipped configuration; `waited` is the share of the loop's time that was spent blocked in next(),
after the first batch.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._loader_peer import dataloader, packed
from benchmarks._record import Result, finish, medians_ms, over, parser, start
from components.config import load_config
from components.training.data import estimate_weighting, shard_format, window_limit
from components.training.distributed import process_group
from components.training.start import cold_model
from components.training.trainer import PREFETCH, Trainer
from feature_repo.specs import KUAIRAND as SPEC
from kernels.loader import Loader, LoaderConfig, prefetched, read_shard, write_checksums
from kernels.loader.native import available
from model.batch import TrainBatch
from tests.shard_builders import random_lengths, write_shards

FORMAT, LIMIT = shard_format(SPEC), window_limit(SPEC)
WORKERS, BATCH, SHARDS, EPOCHS = 2, 64, 4, 3
Peer = Any


def open_loader(paths: list[Path], implementation: Any, threads: int, **options: Any) -> Loader:
    """One of our loaders."""
    config = LoaderConfig(
        batch=BATCH, limit=LIMIT, threads=threads, implementation=implementation, **options
    )
    return Loader(paths, FORMAT, config)


def epoch(paths: list[Path], peer: Peer, repeats: int, **options: Any) -> Result:
    """A whole epoch by every loader."""
    loaders = {"numpy": open_loader(paths, "numpy", 1, **options)}
    module, reason = available()
    if module is not None:
        for threads in (1, 2):
            loaders[f"native_{threads}"] = open_loader(paths, "native", threads, **options)
    sequences = loaders["numpy"].sequences
    variants: dict[str, Callable[[], object]] = {
        "dataloader": lambda: [drain(peer) for _ in range(EPOCHS)]
    }
    for name, own in loaders.items():
        variants[name] = lambda own=own: [drain(own.epoch(epoch)) for epoch in range(EPOCHS)]
    turns = medians_ms(variants, repeats)
    ms = {name: round(taken / EPOCHS, 4) for name, taken in turns.items()}
    pairs = {f"dataloader_over_{name}": ("dataloader", name) for name in loaders}
    pairs |= {f"numpy_over_{name}": ("numpy", name) for name in loaders if name != "numpy"}
    facts: dict[str, Any] = {
        "sequences_per_second": {name: round(1e3 * sequences / taken) for name, taken in ms.items()}
    }
    return Result(
        setting=sizes(paths, loaders["numpy"])
        | {
            "work": "training" if options else "plain",
            "workers": WORKERS,
            "repeats": repeats,
            "epochs": EPOCHS,
        },
        median_ms=ms,
        ratios=over(ms, pairs),
        facts=facts if module is not None else facts | {"native": f"not run: {reason}"},
    )


def drain(batches: Any) -> int:
    """How many batches there were."""
    return sum(1 for _ in batches)


def sizes(paths: list[Path], loader: Loader) -> dict[str, Any]:
    """What the shards hold."""
    impressions = sum(shard.impressions for shard in loader.shards)
    return {
        "sequences": loader.sequences,
        "mean_impressions": round(impressions / loader.sequences, 1),
        "shards": len(paths),
        "mebibytes": round(sum(path.stat().st_size for path in paths) / 2**20, 1),
        "batch": BATCH,
    }


def training(paths: list[Path], peer: Peer, steps: int, turns: int, threads: int) -> Result:
    """Steps of the trainer over batches that are there, from our loader and from the peer."""
    with process_group() as group, tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(paths, group, Path(folder))

        def convert() -> Iterator[list[TrainBatch]]:
            while True:
                for batch in peer:
                    yield [trainer._prepare(packed(batch, FORMAT))]

        first = trainer._batches()
        resident = [next(first) for _ in range(steps + 1)]
        first.close()
        sides: dict[str, Callable[[], Any]] = {
            "resident": lambda: iter(resident),
            "loader": trainer._batches,
            "dataloader": lambda: prefetched(convert(), PREFETCH),
        }
        taken: dict[str, list[Steps]] = {name: [] for name in sides}
        for _ in range(turns):
            for name, batches in sides.items():
                taken[name].append(timed_steps(trainer, batches(), steps))
    ms = {n: round(sum(t.whole_ms for t in all_) / turns / steps, 3) for n, all_ in taken.items()}
    waits = {name: [wait for t in all_ for wait in t.waits_ms] for name, all_ in taken.items()}
    return Result(
        setting=sizes(paths, trainer.loader)
        | {"work": "training step", "steps": steps, "turns": turns, "threads": threads},
        median_ms=ms,
        ratios=over(ms, {f"{n}_over_resident": (n, "resident") for n in ("loader", "dataloader")}),
        facts={
            "milliseconds": "means: a wait is rare",
            "waited": {n: round(sum(w) / (ms[n] * turns * steps), 6) for n, w in waits.items()},
            "longest_wait_ms": {n: round(max(w), 3) for n, w in waits.items()},
            "first_batch_ms": {n: round(all_[-1].first_ms, 1) for n, all_ in taken.items()},
        },
    )


def make_trainer(paths: list[Path], group: Any, folder: Path) -> Trainer:
    """The trainer of the shipped configuration with our loader."""
    config = load_config("kuairand")
    packs = [read_shard(paths[0], FORMAT)]
    model = cold_model(config.feed_sr, SPEC, 0, packs)
    model.train()
    return Trainer(
        model=model.to(group.device),
        spec=SPEC,
        config=config.cold.model_copy(update={"epochs": 1000, "checkpoint_steps": 10**9}),
        loader=open_loader(paths, None, 1, sort_by_length=True, session_shuffle=True, prefetch=1),
        weighting=estimate_weighting(packs, SPEC, config.cold, 1_800_000_000_000),
        group=group,
        inputs="",
        checkpoints=folder,
    )


@dataclass(frozen=True)
class Steps:
    """Milliseconds of some steps, of each next() before one, and to the first batch of all."""

    whole_ms: float
    waits_ms: list[float]
    first_ms: float


def timed_steps(trainer: Trainer, batches: Any, steps: int) -> Steps:
    """Steps of the trainer, after one that is not counted."""
    begin = time.perf_counter()
    batch = next(batches)
    first = time.perf_counter() - begin
    trainer._take_step(batch)
    waits, begin = [], time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(batches)
        waits.append(1e3 * (time.perf_counter() - asked))
        trainer._take_step(batch)
    whole = time.perf_counter() - begin
    if isinstance(batches, Generator):
        batches.close()
    return Steps(1e3 * whole, waits, 1e3 * first)


def main() -> None:
    """Measures and ends with one JSON line."""
    arguments = start(parser(__doc__))
    count, repeats, steps, turns = (40, 1, 2, 1) if arguments.toy else (4096, 7, 8, 3)
    mean, most = (8, 40) if arguments.toy else (263, LIMIT)
    with tempfile.TemporaryDirectory() as folder:
        lengths = random_lengths(count, mean=mean, most=most)
        paths = write_shards(Path(folder), SPEC, lengths, shards=SHARDS)
        write_checksums(Path(folder))
        peer = dataloader(paths, FORMAT, batch=BATCH, limit=LIMIT, workers=WORKERS)
        results = [
            epoch(paths, peer, repeats),
            epoch(paths, peer, repeats, sort_by_length=True, session_shuffle=True),
            training(paths, peer, steps, turns, arguments.threads),
        ]
        del peer  # its workers read the folder
    for result in results:
        print(result)
    finish("loader", results, threads=arguments.threads, save=arguments.save, peers=["pyarrow"])


if __name__ == "__main__":
    main()
