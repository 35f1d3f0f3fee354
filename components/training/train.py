# SPDX-License-Identifier: Apache-2.0
"""The train step: from a day's shards to a ranker's weights, cold or warm.

Decides what a run starts from and what it is made of; `components.training.trainer` does the steps.
A run that is called again with the same inputs returns what it made. Many processes: `torchrun
--standalone --nproc-per-node 2 -m components.training.train --root DIR --day DAY --config NAME`;
they share a file system.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from components.config import DailyConfig, TrainConfig, load_config
from components.layout.files import fingerprint
from components.layout.paths import Layout
from components.training.checkpoints import clear_checkpoints
from components.training.data import estimate_weighting, open_loader, window_limit
from components.training.distributed import Group, process_group
from components.training.teachers import Teachers
from components.training.trainer import Trainer
from feature_repo.spec import Freshness, Spec
from kernels.loader import Loader, LoaderConfig, Packed, read_shard
from model import RankerConfig, build_ranker
from model.checkpoint import load_model, save_model
from model.files import existing_folder, read_bytes
from model.ranker import Ranker

SAMPLE_IMPRESSIONS = 2_000_000
"""Statistics and weights are estimated on so many impressions of evenly spaced shards."""
GPU_LOADER_THREADS = 4
"""Beside a GPU the CPU has nothing else to do; without one it is the CPU that trains."""


def train(
    layout: Layout, day: str, config: DailyConfig, ranker: str, start: Path | None = None
) -> dict[str, Any]:
    """Trains one ranker of a day's run on `layout.sequences("train", day)`.

    Args:
        start: folder of the weights to start from (warm, `config.warm`); None is a cold start.

    Returns:
        The training record, which is also in `layout.model(day, ranker)`.

    Raises:
        ValueError: the loop has no such ranker; or see `fit`.
    """
    known = config.rankers
    if ranker not in known:
        raise ValueError(f"there is no ranker {ranker!r}; have {', '.join(known)}")
    return fit(
        layout.sequences("train", day),
        layout.model(day, ranker),
        known[ranker],
        config.spec,
        config.cold if start is None else config.warm,
        config.freshness,
        start,
    )


def fit(
    shards_dir: Path,
    out_dir: Path,
    ranker_config: RankerConfig,
    spec: Spec,
    train_config: TrainConfig,
    freshness: Freshness,
    start: Path | None = None,
    teachers: Sequence[Path] | None = None,
) -> dict[str, Any]:
    """Trains a ranker on a folder of shards and writes it to `out_dir`.

    Checkpoints go to `checkpoints/<name>` and teachers to `teachers/<name>` beside `out_dir`, and
    are removed at the end; a run that was killed resumes from the newest. A finished run with the
    same inputs returns at once.

    Args:
        teachers: folders of the teachers that `train_config` wants, trained with the next seeds
            and otherwise the same; None trains them here.

    Returns:
        The training record: inputs, counts, the curve.

    Raises:
        ValueError: broken or empty shards, a start that does not fit, another number of teachers, a
            loss that is not finite, or a checkpoint that cannot be written; one sentence.
    """
    checkpoints = out_dir.parent / "checkpoints" / out_dir.name
    own_teachers = out_dir.parent / "teachers" / out_dir.name
    with process_group() as group:
        loader = _open(shards_dir, spec, train_config, freshness, group)
        inputs = describe_inputs(loader, ranker_config, spec, train_config, freshness, start)
        finished = finished_record(out_dir, inputs, spec)
        if finished is not None:
            if group.leads:  # a run killed after its model was whole left them
                _clear(checkpoints, own_teachers)
            return finished
        if teachers is None:
            recipes = teacher_recipes(train_config)
            teachers = [own_teachers / f"seed-{recipe.seed}" for recipe in recipes]
            for folder, recipe in zip(teachers, recipes, strict=True):
                fit(shards_dir, folder, ranker_config, spec, recipe, freshness, start)
        packs = sample(loader)
        model = starting_model(ranker_config, spec, train_config.seed, start, packs)
        as_of_ms = max(int(s.metadata.get("as_of_ms", 0)) for s in loader.shards)
        trainer = Trainer(
            model=model.to(group.device),
            spec=spec,
            config=train_config,
            loader=loader,
            weighting=estimate_weighting(packs, spec, train_config, as_of_ms),
            group=group,
            inputs=fingerprint(inputs),
            checkpoints=checkpoints,
            teachers=_load_teachers(teachers, train_config, spec, group),
        )
        del packs
        trainer.run()
        record = make_record(trainer, inputs, freshness)
        if group.leads:
            save_model(out_dir, model, record)
            _clear(checkpoints, own_teachers)
        group.barrier()
    return record


def teacher_recipes(config: TrainConfig) -> list[TrainConfig]:
    """How each teacher of a run is trained: with the next seeds, and without teachers."""
    return [
        config.model_copy(update={"seed": config.seed + number, "teachers": 0})
        for number in range(1, config.teachers + 1)
    ]


def _load_teachers(
    folders: Sequence[Path], config: TrainConfig, spec: Spec, group: Group
) -> Teachers:
    if len(folders) != config.teachers:
        raise ValueError(f"want {config.teachers} teachers, got {len(folders)}")
    rankers = [load_model(folder, spec)[0].to(group.device) for folder in folders]
    return Teachers(rankers, config.teacher_weight)


def _clear(checkpoints: Path, teachers: Path) -> None:
    """Removes what only an unfinished run needs."""
    clear_checkpoints(checkpoints)
    shutil.rmtree(teachers, ignore_errors=True)


def _open(
    shards_dir: Path, spec: Spec, config: TrainConfig, freshness: Freshness, group: Group
) -> Loader:
    loader_config = LoaderConfig(
        batch=config.global_batch,
        seed=config.seed,
        session_shuffle=config.session_shuffle,
        trade_slots=freshness == "immediate",
        sort_by_length=True,
        limit=window_limit(spec),
        rank=group.rank,
        world=group.world,
        prefetch=1,
        threads=GPU_LOADER_THREADS if group.device.type == "cuda" else 1,
        pin=group.device.type == "cuda",
    )
    loader = open_loader(shards_dir, spec, loader_config, freshness)
    if not any(shard.targets for shard in loader.shards):
        raise ValueError(
            f"the shards in {shards_dir} hold no impression to train on: {_instead(loader)}; "
            "choose days with timed impressions newer than the model to start from"
        )
    return loader


def _instead(loader: Loader) -> str:
    """What shards without a target hold, in words."""
    impressions = sum(shard.impressions for shard in loader.shards)
    untimed = sum(shard.auxiliary for shard in loader.shards)
    if untimed:
        return f"of {impressions}, {untimed} are new, all of them untimed"
    return f"of {impressions}, none is new" if impressions else "no sequence at all"


def sample(loader: Loader, impressions: int = SAMPLE_IMPRESSIONS) -> list[Packed]:
    """Whole shards, evenly spaced, that together hold about so many impressions."""
    total = sum(shard.impressions for shard in loader.shards)
    every = max(total // impressions, 1)
    chosen = loader.shards[::every]
    return [read_shard(shard.path, loader.form, checksum=shard.checksum) for shard in chosen]


def starting_model(
    ranker_config: RankerConfig,
    spec: Spec,
    seed: int,
    start: Path | None,
    packs: list[Packed],
) -> Ranker:
    """A new ranker with the sample's statistics, or the one at `start`.

    Raises:
        ValueError: `start` cannot be loaded, or is of another spec or configuration.
    """
    if start is None:
        model = build_ranker(ranker_config, spec, seed)
        context_RC = np.concatenate([pack.context_RC for pack in packs])
        features = [*spec.with_role("sequence"), *spec.with_role("action")]
        columns = {f.name: np.concatenate([p.columns[f.name] for p in packs]) for f in features}
        model.fit_statistics(
            torch.from_numpy(context_RC), {n: torch.from_numpy(a) for n, a in columns.items()}
        )
        return model
    model, _ = load_model(start, spec)
    if model.config != ranker_config:
        raise ValueError(
            f"the model in {start} has another configuration than the run; start cold, or train "
            "with the configuration it has"
        )
    return model


def describe_inputs(
    loader: Loader,
    ranker_config: RankerConfig,
    spec: Spec,
    train_config: TrainConfig,
    freshness: Freshness,
    start: Path | None,
) -> dict[str, Any]:
    """Everything a run's weights are a function of, as JSON values."""
    listing = "".join(
        f"{s.path.name} {s.checksum} {s.impressions} {sorted(s.metadata.items())}\n"
        for s in loader.shards
    )
    weights = start and read_bytes(existing_folder(start) / "model.safetensors")
    corrected = [task.name for task in spec.tasks if task.examined]
    return {
        **({"corrected": corrected} if train_config.propensity else {}),
        "shards": hashlib.sha256(listing.encode()).hexdigest(),
        "ranker": ranker_config.model_dump(mode="json"),
        "spec": spec.hash,
        "train": train_config.model_dump(mode="json", exclude={"checkpoint_steps"}),
        "freshness": freshness,
        "start": weights and hashlib.sha256(weights).hexdigest(),
    }


def finished_record(out_dir: Path, inputs: dict[str, Any], spec: Spec) -> dict[str, Any] | None:
    """The record of a whole model in `out_dir` that these very inputs made, or None."""
    if not (out_dir / "config.json").is_file():
        return None
    try:
        record = load_model(out_dir, spec)[1]
    except ValueError:
        return None
    return record if record.get("inputs") == inputs else None


def make_record(trainer: Trainer, inputs: dict[str, Any], freshness: Freshness) -> dict[str, Any]:
    """What a model remembers of its training; the same for the same inputs, so without times."""
    shards = trainer.loader.shards
    return {
        "freshness": freshness,
        "inputs": inputs,
        "steps": trainer.total,
        "sequences": trainer.loader.sequences,
        "impressions": sum(s.impressions for s in shards),
        "targets": sum(s.targets for s in shards),
        "auxiliary": sum(s.auxiliary for s in shards),
        "as_of_ms": trainer.weighting.as_of_ms,
        "propensity": list(trainer.weighting.propensity),
        "curve": trainer.curve.points,
    }


def main(
    root: Annotated[Path, typer.Option(help="the run's root")],
    day: Annotated[str, typer.Option(help="as-of day, YYYY-MM-DD")],
    config: Annotated[str, typer.Option(help="a shipped configuration or a JSON file")],
    ranker: Annotated[str, typer.Option(help="feed_sr or dcnv2")] = "feed_sr",
    start: Annotated[Path | None, typer.Option(help="weights to start from")] = None,
) -> None:
    """Trains one ranker of a day's run; also under torchrun."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        train(Layout.at(root), day, load_config(config), ranker, start)
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    typer.run(main)
