# SPDX-License-Identifier: Apache-2.0
"""The rankers of a backtest: by name, and each trained once with each seed.

A trained ranker lies in a folder named by its configuration, so that whatever shares a work folder
shares what was trained there. It scores nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from components.config import DailyConfig, TrainConfig
from components.layout.files import digest
from components.training.distributed import this_device
from components.training.run import TrainingRun
from components.training.train import fit
from model import RankerConfig
from model.build import RANKERS
from model.checkpoint import load_model
from model.ranker import Ranker


def ranker_configs(config: DailyConfig, names: Iterable[str]) -> dict[str, RankerConfig]:
    """The configurations of the rankers with these names; ValueError lists the names there are.

    A ranker that the daily loop does not have is built with its defaults.
    """
    known = {name: made.model_validate({}) for name, (made, _) in RANKERS.items()} | config.rankers
    chosen = tuple(names)
    for name in chosen:
        if name not in known:
            raise ValueError(f"there is no ranker {name!r}; have {', '.join(known)}")
    if not chosen:
        raise ValueError(f"name at least one ranker of {', '.join(known)}")
    return {name: known[name] for name in chosen}


def seeded(training: TrainConfig, seed: int) -> TrainConfig:
    """The same training with another seed, counted from the configuration's own."""
    return training.model_copy(update={"seed": training.seed + seed})


def train_seed(
    work: Path, shards: Path, ranker: RankerConfig, config: DailyConfig, seed: int
) -> Ranker:
    """A ranker trained from a cold start with one seed; one that is trained already is loaded.

    Args:
        work: the folder that holds `models/`.
        shards: a folder `train-<what tells the shards apart>`.
        ranker: what is trained.
        config: says how, the spec, and how fresh the shards are.
        seed: counted from the configuration's own.

    Raises:
        ValueError: the shards are broken, or the training ended badly; one sentence.
    """
    training = seeded(config.cold, seed)
    run = TrainingRun(
        shards=shards,
        out=_model_folder(work, shards, ranker, training),
        ranker=ranker,
        spec=config.spec,
        config=training,
        freshness=config.freshness,
    )
    fit(run)
    return load_model(run.out, config.spec)[0].to(this_device())


def _model_folder(work: Path, shards: Path, ranker: RankerConfig, training: TrainConfig) -> Path:
    made_from = digest(ranker.model_dump_json() + training.model_dump_json(), 8)
    return work / "models" / shards.name.removeprefix("train-") / f"{ranker.ranker}-{made_from}"
