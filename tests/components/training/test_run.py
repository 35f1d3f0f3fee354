# SPDX-License-Identifier: Apache-2.0
"""A run learns, repeats itself bit for bit, and is told from others by what it is made from."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from components.config import TrainConfig
from components.evaluation.evaluate import evaluate_ranker
from components.training.distributed import Group
from components.training.train import fit
from feature_repo.specs import KUAIRAND, SIMULATOR
from model import DCNv2Config, build_ranker
from model.checkpoint import load_model
from tests.rival_builders import RIVALS
from tests.shard_builders import random_lengths, write_shards
from tests.training_builders import (
    NOISY,
    SMALL,
    STILL,
    assert_equal,
    distance,
    fitted,
    training_run,
    weights,
    written_shards,
)

RANKERS = pytest.mark.parametrize("ranker", [NOISY, DCNv2Config()], ids=["feed_sr", "dcnv2"])


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_shards(tmp_path_factory.mktemp("shards"))


@RANKERS
def test_training_learns_and_says_how(shards: Path, tmp_path: Path, ranker) -> None:
    config = SMALL.model_copy(update={"epochs": 4, "learning_rate": 1e-2})
    record = fitted(shards, tmp_path / "m", ranker, config)
    curve = record["curve"]
    assert [p["step"] for p in curve] == list(range(1, record["steps"] + 1))
    assert set(curve[0]["tasks"]) == set(KUAIRAND.task_names)
    first, last = (sum(p["loss"] for p in part) / 5 for part in (curve[:5], curve[-5:]))
    assert last < first - 0.05
    rates = [p["lr"] for p in curve]
    assert max(rates) == pytest.approx(1e-2, rel=0.02)
    assert 0 < rates[-1] < rates[0] < max(rates)
    assert record["targets"] > 0
    model, kept = load_model(tmp_path / "m", KUAIRAND)
    assert kept == record
    assert kept["freshness"] == "day"
    assert not (tmp_path / "checkpoints" / "m").exists()
    assert model.config == ranker


def test_the_same_inputs_give_the_same_weights_bit_for_bit(shards: Path, tmp_path: Path) -> None:
    generator = torch.random.get_rng_state()
    fitted(shards, tmp_path / "a")
    assert torch.equal(generator, torch.random.get_rng_state())
    fitted(shards, tmp_path / "b")
    assert_equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    fitted(shards, tmp_path / "c", config=SMALL.model_copy(update={"seed": 1}))
    assert distance(weights(tmp_path / "a"), weights(tmp_path / "c")) > 1e-3


def test_the_cut_into_micro_batches_does_not_matter(shards: Path, tmp_path: Path) -> None:
    fitted(shards, tmp_path / "whole", STILL, SMALL.model_copy(update={"micro_batch": 32}))
    fitted(shards, tmp_path / "cut", STILL, SMALL.model_copy(update={"micro_batch": 5}))
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert distance(whole, cut) < 1e-4
    start = build_ranker(STILL, KUAIRAND, 0).state_dict()
    assert distance(whole, start) > 1e-2


@pytest.mark.law
def test_a_finished_run_returns_at_once_and_another_one_does_not(
    shards: Path, tmp_path: Path
) -> None:
    record = fitted(shards, tmp_path / "m")
    written = (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns
    assert fitted(shards, tmp_path / "m") == record
    assert (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns == written
    other = SMALL.model_copy(update={"learning_rate": 1e-4})
    assert fitted(shards, tmp_path / "m", config=other)["inputs"] != record["inputs"]
    assert (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns > written


@pytest.mark.law
def test_shards_of_the_same_size_with_other_contents_are_another_run(
    shards: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    record = fitted(folder, tmp_path / "m")
    path = folder / "part-00000.arrow"
    size, table = path.stat().st_size, pa.ipc.open_file(str(path)).read_all()
    place = table.schema.get_field_index("click")
    labels = table.column("click").to_pylist()
    labels[0][0] = 1 - labels[0][0]
    column = pa.array(labels, table.column("click").type)
    changed = table.set_column(place, "click", column).replace_schema_metadata(
        table.schema.metadata
    )
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_file(str(path), changed.schema, options=options) as writer:
        writer.write_table(changed, max_chunksize=256)
    assert path.stat().st_size == size
    assert fitted(folder, tmp_path / "m")["inputs"] != record["inputs"]


def test_a_finished_run_of_a_spec_of_ones_own_returns_at_once(tmp_path: Path) -> None:
    spec = dataclasses.replace(KUAIRAND, name="mine")
    write_shards(tmp_path / "shards", spec, random_lengths(20))
    fitted(tmp_path / "shards", tmp_path / "m", STILL, spec=spec)
    written = (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns
    fitted(tmp_path / "shards", tmp_path / "m", STILL, spec=spec)
    assert (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns == written


def test_warm_starts_from_yesterdays_weights(shards: Path, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"epochs": 3, "learning_rate": 1e-2})
    cold = fitted(shards, tmp_path / "cold", config=config)
    gentle = SMALL.model_copy(update={"learning_rate": 1e-6})
    warm = fitted(shards, tmp_path / "warm", config=gentle, start=tmp_path / "cold")
    assert warm["curve"][0]["loss"] < cold["curve"][0]["loss"] - 0.05
    assert distance(weights(tmp_path / "cold"), weights(tmp_path / "warm")) < 1e-4
    with pytest.raises(ValueError, match="another configuration"):
        fitted(shards, tmp_path / "x", STILL, start=tmp_path / "cold")
    with pytest.raises(ValueError, match="no model at"):
        fitted(shards, tmp_path / "x", start=tmp_path / "nowhere")


@pytest.mark.parametrize("ranker", RIVALS, ids=lambda ranker: ranker.ranker)
def test_a_rival_is_trained_and_scored_as_every_ranker(tmp_path: Path, ranker) -> None:
    write_shards(tmp_path / "shards", SIMULATOR, random_lengths(120, mean=12))
    recipe = TrainConfig(global_batch=8, micro_batch=4, epochs=4, learning_rate=1e-2)
    run = training_run(
        tmp_path / "shards", tmp_path / "m", ranker=ranker, spec=SIMULATOR, config=recipe
    )
    record = run.train()
    assert record["curve"][-1]["loss"] < record["curve"][0]["loss"]
    assert run.train() == record
    model, kept = load_model(run.out, SIMULATOR)
    assert kept == record
    for measured in evaluate_ranker(model, run.shards, SIMULATOR).tasks.values():
        assert measured.n == record["targets"]
        assert measured.auc is not None


@pytest.mark.parametrize("freshness", ["day", "30m", "immediate"])
def test_slots_are_traded_only_where_feedback_is_immediate(tmp_path: Path, freshness) -> None:
    write_shards(tmp_path, KUAIRAND, [8] * 4, shards=1, freshness=freshness)
    group = Group(rank=0, world=1, device=torch.device("cpu"))
    loader = training_run(tmp_path, tmp_path / "m", freshness=freshness).open(group)
    assert loader.config.session_shuffle
    assert loader.config.trade_slots == (freshness == "immediate")


@RANKERS
@pytest.mark.parametrize("propensity", [True, (1.0, 0.4, 0.02)])
def test_a_run_with_propensities_trains_and_says_them(
    tmp_path: Path, ranker: Any, propensity: Any
) -> None:
    """With untimed rows, rows without a position, labels missing, a teacher and offsets."""
    write_shards(tmp_path / "shards", SIMULATOR, random_lengths(60), shards=2)
    over = {"propensity": TrainConfig(propensity=propensity).propensity, "teachers": 1}
    changes = {"ranker": ranker, "spec": SIMULATOR}
    records = {
        "plain": fitted(tmp_path / "shards", tmp_path / "plain", **changes),
        "over": fit(
            training_run(
                tmp_path / "shards",
                tmp_path / "over",
                config=SMALL.model_copy(update=over),
                **changes,
            )
        ),
    }
    assert records["plain"]["propensity"] == []
    assert "corrected" not in records["plain"]["inputs"]
    table = records["over"]["propensity"]
    if propensity is True:
        assert table[0] == 1
        assert 0.4 < table[1] < 1
        assert len(table) == 60
    else:
        assert table == [1.0, 0.4, 0.1]  # what is below a tenth counts as one
    assert records["over"]["inputs"]["corrected"] == [
        t for t in SIMULATOR.task_names if t != "skip"
    ]
    model, _ = load_model(tmp_path / "over", SIMULATOR)
    assert all(p.isfinite().all() for p in model.parameters())


def test_another_number_of_teachers_is_refused(shards: Path, tmp_path: Path) -> None:
    taught = SMALL.model_copy(update={"teachers": 2})
    for teachers in ((), (tmp_path / "one",)):
        with pytest.raises(ValueError, match=f"want 2 teachers, got {len(teachers)}"):
            fitted(shards, tmp_path / "m", config=taught, teachers=teachers)
    assert not (tmp_path / "m").exists()
