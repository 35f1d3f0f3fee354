# SPDX-License-Identifier: Apache-2.0
"""Small rankers, runs and roots to train in, and how far two of them lie apart."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from components.config import DailyConfig, TrainConfig
from components.layout.paths import Layout
from feature_repo.specs import KUAIRAND
from model import DCNv2Config, FeedSRConfig, HeadConfig
from model.checkpoint import load_model
from tests.shard_builders import random_lengths, write_shards

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
