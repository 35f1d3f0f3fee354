# SPDX-License-Identifier: Apache-2.0
"""Small rankers, runs and roots to train in, and how far two of them lie apart."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.config import DailyConfig, TrainConfig
from components.layout.paths import Layout
from components.training.run import Record, TrainingRun
from components.training.shards import write_shards as write_training_shards
from feature_repo.specs import KUAIRAND
from model import DCNv2Config, FeedSRConfig, HeadConfig, RankerConfig
from model.checkpoint import load_model
from tests.shard_builders import random_lengths, shard_batch, write_shards

DAY = "2024-01-02"
HEAD = HeadConfig(name="linear", gate_dropout=0)
# without dropout the cut into micro-batches and processes cannot matter
STILL = FeedSRConfig(width=16, layers=1, heads=2, embedding_dropout=0, head=HEAD)
STILL_BASELINE = DCNv2Config(embedding_dropout=0, head=HEAD)
NOISY = FeedSRConfig(width=16, layers=1, heads=2, embedding_dropout=0.2, head=HEAD)
SMALL = TrainConfig(global_batch=32, micro_batch=16, checkpoint_steps=3, learning_rate=3e-3)


def written_shards(folder: Path) -> Path:
    """Shards of 300 sequences."""
    write_shards(folder, KUAIRAND, random_lengths(300), shards=2)
    return folder


def shard_without_rows(folder: Path) -> Path:
    """The one shard of a folder, without a sequence."""
    batch = shard_batch(KUAIRAND, np.array([4]), np.random.default_rng(0), 1)
    metadata = {"spec_hash": KUAIRAND.hash, "freshness": "day", "as_of_ms": "0"}
    with write_training_shards(folder, metadata) as shards:
        shards.write(batch.slice(0, 0))
    (path,) = folder.glob("*.arrow")
    return path


def training_run(shards: Path, out: Path, **changes: Any) -> TrainingRun:
    """A run of a small ranker on the shards above, but for what is said."""
    small = {"ranker": NOISY, "spec": KUAIRAND, "config": SMALL, "freshness": "day"}
    return TrainingRun(shards=shards, out=out, **{**small, **changes})


def fitted(
    shards: Path,
    out: Path,
    ranker: RankerConfig = NOISY,
    config: TrainConfig = SMALL,
    **changes: Any,
) -> Record:
    """Trains such a run, and returns its record."""
    return training_run(shards, out, ranker=ranker, config=config, **changes).train()


def weights(folder: Path) -> dict[str, Tensor]:
    return load_model(folder, KUAIRAND)[0].state_dict()


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference of any weight."""
    return max(float((a[n].double() - b[n].double()).abs().max()) for n in a)


def daily_config(config: TrainConfig, ranker: FeedSRConfig = NOISY) -> DailyConfig:
    return DailyConfig(
        spec_name="kuairand", feed_sr=ranker, dcnv2=STILL_BASELINE, cold=config, warm=config
    )


def prepared(root: Path, shards: Path, config: DailyConfig) -> list[str]:
    """A root to train in, and the arguments of the command that does."""
    layout = Layout.at(root)
    shutil.copytree(shards, layout.sequences("train", DAY))
    (root / "config.json").write_text(config.model_dump_json())
    return ["--root", str(root), "--day", DAY, "--config", str(root / "config.json")]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "FEEDSR_PROGRESS": "off"}
