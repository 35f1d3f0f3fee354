# SPDX-License-Identifier: Apache-2.0
"""A run with nothing to train on, or with numbers that no training survives, is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from components.config import TrainConfig
from components.training import run as module
from components.training import shards as shards_module
from components.training.data import shard_format
from components.training.shards import write_shards
from feature_repo.specs import KUAIRAND
from kernels.loader import inspect_shard
from model import DCNv2Config
from tests.shard_builders import random_lengths, shard_batch
from tests.shard_builders import write_shards as random_shards
from tests.training_builders import NOISY, SMALL, fitted, shard_without_rows, written_shards

METADATA = {"spec_hash": KUAIRAND.hash, "freshness": "day", "as_of_ms": "0"}
RECIPE = TrainConfig(global_batch=8, micro_batch=4, learning_rate=3e-3)
RANKERS = pytest.mark.parametrize("ranker", [NOISY, DCNv2Config()], ids=["feed_sr", "dcnv2"])


def test_a_folder_of_no_sequences_is_refused(tmp_path: Path) -> None:
    with write_shards(tmp_path / "shards", METADATA):
        pass
    with pytest.raises(ValueError, match=r"no sequences in .*: no member .* choose other days"):
        fitted(tmp_path / "shards", tmp_path / "m")


def test_a_shard_without_a_sequence_is_refused(tmp_path: Path) -> None:
    folder = shard_without_rows(tmp_path / "none").parent
    with pytest.raises(ValueError, match=r"hold no impression to train on: no sequence at all"):
        fitted(folder, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_shards_without_a_target_are_refused(tmp_path: Path) -> None:
    (path,) = random_shards(tmp_path / "shards", KUAIRAND, [1, 1], shards=1)
    assert inspect_shard(path, shard_format(KUAIRAND)).auxiliary == 2
    with pytest.raises(ValueError, match="hold no impression to train on"):
        fitted(tmp_path / "shards", tmp_path / "m")


def test_a_training_set_of_history_alone_says_so(tmp_path: Path) -> None:
    batch = shard_batch(KUAIRAND, np.array([1, 4]), np.random.default_rng(0), 1)
    zero = pa.array([[0], [0] * 4], pa.list_(pa.int8()))
    none = pa.array([[], []], pa.list_(pa.float32()))
    for name, values in (("loss", zero), ("context", none)):
        place = batch.schema.get_field_index(name)
        batch = batch.set_column(place, batch.schema.field(place).with_type(values.type), values)
    with write_shards(tmp_path / "shards", METADATA) as writer:
        writer.write(batch)
    with pytest.raises(ValueError, match=r"to train on: of 5, none is new"):
        fitted(tmp_path / "shards", tmp_path / "m")


@RANKERS
@pytest.mark.parametrize("propensity", [False, True])
def test_shards_that_are_untimed_throughout_train_beside_timed_ones(
    tmp_path: Path, ranker: Any, propensity: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the sample that statistics are taken of holds such shards alone."""
    folder = tmp_path / "shards"
    rng = np.random.default_rng(0)
    monkeypatch.setattr(shards_module, "SHARD_ROWS", 20)
    with write_shards(folder, METADATA) as writer:
        for lengths in (np.ones(20, int), np.array(random_lengths(12))):
            writer.write(shard_batch(KUAIRAND, lengths, rng, 1))
    assert writer.counts.shards == 2
    recipe = RECIPE.model_copy(update={"propensity": "estimated" if propensity else False})
    for impressions in (1, 10**6):
        monkeypatch.setattr(module.sample, "__defaults__", (impressions,))
        out = tmp_path / f"m{impressions}"
        record = fitted(folder, out, ranker, recipe)
        assert record["auxiliary"] > 20
        assert all(np.isfinite(p["loss"]) for p in record["curve"])


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    shards = written_shards(tmp_path / "shards")
    wild = SMALL.model_copy(update={"learning_rate": 1e38})
    with pytest.raises(ValueError, match=r"stopped at step \d+ of 10: the loss is.*learning rate"):
        fitted(shards, tmp_path / "m", config=wild)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_a_seed_that_no_generator_takes_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=r"seed\n.*Input should be"):
        TrainConfig(seed=seed)
