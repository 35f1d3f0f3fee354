# SPDX-License-Identifier: Apache-2.0
"""Training with nothing to train on: no rows, no sequences, no timed row, in all or in a part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from components.config import TrainConfig
from components.features.context import AsOfContext
from components.layout.paths import Layout
from components.log.impressions import history_order, with_content
from components.log.sources.feedback import act, examination, log_likelihood, probabilities
from components.log.sources.simulator import spoil
from components.log.sources.simulator_config import SimulatorConfig
from components.log.sources.world import Posts, SegmentSampler, World, unit
from components.studies.config import fused_early
from components.studies.experiments import POPULARITY
from components.studies.position_bias import position_bias, slope
from components.training import shards
from components.training import train as module
from components.training.checkpoints import clear_checkpoints, newest_checkpoint
from components.training.data import (
    estimate_weighting,
    evaluation_batches,
    open_loader,
    propensity,
    shard_format,
    to_train_batch,
)
from components.training.sequences import AUXILIARY, TARGET, build_sequences, mark_loss
from components.training.shards import ShardCounts, write_shards
from components.training.teachers import Teachers
from components.training.train import fit
from feature_repo.spec import Spec
from feature_repo.specs import KUAIRAND, SIMULATOR
from kernels.loader import LoaderConfig, Packed, read_shard
from model import DCNv2Config, FeedSRConfig, HeadConfig, build_ranker
from tests.builders import make_train_batch
from tests.log_builders import FIRST_DAY, random_log, small_spec
from tests.shard_builders import random_lengths, shard_batch
from tests.shard_builders import write_shards as random_shards

LOG_SPEC = small_spec("simulator")
EARLY = fused_early(LOG_SPEC, POPULARITY)
HEAD = HeadConfig(name="linear", gate_dropout=0)
SMALL = FeedSRConfig(width=16, layers=1, heads=2, head=HEAD)
RANKERS = pytest.mark.parametrize("ranker", [SMALL, DCNv2Config()], ids=["feed_sr", "dcnv2"])
RECIPE = TrainConfig(global_batch=8, micro_batch=4, learning_rate=3e-3)
METADATA = {"spec_hash": KUAIRAND.hash, "freshness": "day", "as_of_ms": "0"}


def events_of(log: Any) -> pa.Table:
    return history_order(with_content(log.impressions, log.posts, log.spec))


def built(events: pa.Table, loss: np.ndarray, spec: Spec) -> list[pa.RecordBatch]:
    log = random_log(LOG_SPEC, 1, members=3)
    context = AsOfContext(events, log.members, spec, "day")
    return list(build_sequences(events, loss, context, spec, "day"))


@pytest.mark.parametrize("spec", [LOG_SPEC, EARLY], ids=["late", "early"])
def test_no_event_and_no_marked_event_make_no_sequence(spec: Spec) -> None:
    events = events_of(random_log(LOG_SPEC, 1, members=3))
    for few in (events.slice(0, 0), events.schema.empty_table(), events):
        loss = mark_loss(few, spec, None, spec.day_name(FIRST_DAY - 9))
        assert not loss.any()
        assert built(few, loss, spec) == []


@pytest.mark.parametrize("spec", [LOG_SPEC, EARLY], ids=["late", "early"])
def test_a_chunk_of_members_that_is_untimed_throughout_has_sequences(spec: Spec) -> None:
    events = events_of(random_log(LOG_SPEC, 1, members=3))
    (batch,) = built(events, np.full(len(events), AUXILIARY, np.int8), spec)
    assert batch.num_rows == 3
    assert batch.column("loss").flatten().to_pylist().count(AUXILIARY) > 0
    assert batch.column("context").to_pylist() == [[], [], []]


# --- shards


def test_a_folder_of_no_sequences_is_written_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    with write_shards(folder, METADATA) as writer:
        pass
    assert writer.counts == ShardCounts()
    assert [p.name for p in folder.iterdir()] == ["checksums.json"]
    with pytest.raises(ValueError, match=r"no sequences in .*: no member .* choose other days"):
        fit(folder, tmp_path / "m", SMALL, KUAIRAND, RECIPE, "day")
    with pytest.raises(ValueError, match=r"there are no sequences in"):
        list(evaluation_batches(folder, KUAIRAND))


def test_a_record_batch_without_a_row_is_written_and_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    some = shard_batch(KUAIRAND, np.array([4, 2]), rng, 1)
    with write_shards(tmp_path / "shards", METADATA) as writer:
        for batch in (some.slice(0, 0), some, some.slice(2, 0)):
            writer.write(batch)
    assert writer.counts == ShardCounts(shards=1, sequences=2, targets=4, auxiliary=2)
    batches = list(evaluation_batches(tmp_path / "shards", KUAIRAND))
    assert [packed.num_sequences for _, packed in batches] == [2]


def no_rows(tmp_path: Path) -> Path:
    """One shard without a sequence."""
    some = shard_batch(KUAIRAND, np.array([4]), np.random.default_rng(0), 1)
    with write_shards(tmp_path / "none", METADATA) as writer:
        writer.write(some.slice(0, 0))
    return tmp_path / "none"


def test_a_shard_without_a_sequence_is_read_and_refused_in_training(tmp_path: Path) -> None:
    folder = no_rows(tmp_path)
    assert list(evaluation_batches(folder, KUAIRAND)) == []
    loader = open_loader(folder, KUAIRAND, LoaderConfig(batch=4))
    assert (loader.sequences, loader.steps) == (0, 0)
    with pytest.raises(ValueError, match=r"hold no impression to train on: no sequence at all"):
        fit(folder, tmp_path / "m", SMALL, KUAIRAND, RECIPE, "day")
    assert not (tmp_path / "m").exists()


@RANKERS
def test_a_training_set_that_is_untimed_throughout_says_what_is_there(
    tmp_path: Path, ranker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a teacher or a step is trained."""
    random_shards(tmp_path / "shards", KUAIRAND, [1, 1, 1], shards=1)
    monkeypatch.setattr(module, "Trainer", None)
    recipe = RECIPE.model_copy(update={"teachers": 2})
    with pytest.raises(
        ValueError, match=r"to train on: of 3, 3 are new, all of them untimed"
    ) as said:
        fit(tmp_path / "shards", tmp_path / "m", ranker, KUAIRAND, recipe, "day")
    assert len(str(said.value).splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shards"]


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
        fit(tmp_path / "shards", tmp_path / "m", SMALL, KUAIRAND, RECIPE, "day")


@RANKERS
@pytest.mark.parametrize("propensity", [False, True])
def test_shards_that_are_untimed_throughout_train_beside_timed_ones(
    tmp_path: Path, ranker: Any, propensity: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the sample that statistics are taken of holds such shards alone."""
    folder = tmp_path / "shards"
    rng = np.random.default_rng(0)
    monkeypatch.setattr(shards, "SHARD_ROWS", 20)
    with write_shards(folder, METADATA) as writer:
        for lengths in (np.ones(20, int), np.array(random_lengths(12))):
            writer.write(shard_batch(KUAIRAND, lengths, rng, 1))
    assert writer.counts.shards == 2
    recipe = RECIPE.model_copy(update={"propensity": "estimated" if propensity else False})
    for impressions in (1, 10**6):
        monkeypatch.setattr(module.sample, "__defaults__", (impressions,))
        out = tmp_path / f"m{impressions}"
        record = fit(folder, out, ranker, KUAIRAND, recipe, "day")
        assert record["auxiliary"] > 20
        assert all(np.isfinite(p["loss"]) for p in record["curve"])


# --- packs and batches


def empty_pack(tmp_path: Path) -> Packed:
    (path,) = no_rows(tmp_path).glob("*.arrow")
    return read_shard(path, shard_format(KUAIRAND))


@RANKERS
def test_a_pack_without_a_sequence_is_a_batch_without_rows(tmp_path: Path, ranker: Any) -> None:
    packed = empty_pack(tmp_path)
    config = TrainConfig(propensity=True)
    weighting = estimate_weighting([packed], KUAIRAND, config, 0)
    assert weighting == estimate_weighting([], KUAIRAND, config, 0)
    assert (weighting.scale, weighting.propensity) == (1.0, ())
    assert propensity([], "click") == propensity([packed], "click") == ()
    batch = to_train_batch(packed, KUAIRAND, weighting.weigh(packed), (1.0, 0.5))
    assert batch.labels_RK.shape == batch.auxiliary_labels_AK.shape == (0, len(KUAIRAND.tasks))
    assert list(packed.cut(4)) == []
    model = build_ranker(ranker, KUAIRAND, 0).eval()
    assert model(batch).logits_RK.shape == batch.labels_RK.shape
    mixed = Teachers([model], 0.5).mix(batch)
    assert mixed.labels_RK.shape == batch.labels_RK.shape


@RANKERS
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_teachers_of_a_batch_without_targets_or_without_untimed_rows(
    ranker: Any, share: float
) -> None:
    batch = make_train_batch(KUAIRAND, 0, (3, 2), target_share=share)
    mixed = Teachers([build_ranker(ranker, KUAIRAND, 0).eval()], 0.5).mix(batch)
    assert mixed.labels_RK.shape == batch.labels_RK.shape
    assert mixed.auxiliary_labels_AK.shape == batch.auxiliary_labels_AK.shape
    assert (len(mixed.labels_RK) == 0) == (share == 0.0)


# --- studies, checkpoints, the simulator


def test_no_impression_has_no_position_bias(tmp_path: Path) -> None:
    random_shards(tmp_path / "some", SIMULATOR, [3], shards=1)
    (path,) = (tmp_path / "some").glob("*.arrow")
    batch = pa.ipc.open_file(str(path)).get_batch(0)
    with write_shards(tmp_path / "none", {"spec_hash": SIMULATOR.hash}) as writer:
        writer.write(batch.slice(0, 0))
    with pytest.raises(ValueError, match=r"none.* no impression to score"):
        position_bias(torch.nn.Linear(1, 1), tmp_path / "none", Layout.at(tmp_path), SIMULATOR)
    nothing = np.zeros(0)
    with pytest.raises(ValueError, match="no impression"):
        slope(nothing, nothing, nothing, np.zeros(0, np.int64))


def test_a_folder_without_checkpoints_has_none_to_resume_or_to_clear(tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        assert newest_checkpoint(folder, "x") is None
        clear_checkpoints(folder)
    assert not tmp_path.exists()


def test_nobody_and_nothing_is_simulated() -> None:
    rng, none = np.random.default_rng(0), np.zeros(0)
    drawn = act(rng, none, none)
    assert {len(v) for v in drawn.values()} == {0}
    assert len(log_likelihood(drawn, none, none)) == 0
    assert {len(v) for v in probabilities(none, none).values()} == {0}
    assert len(examination(none, SimulatorConfig())) == 0
    assert unit(np.zeros((0, 3))).shape == (0, 3)
    names = ("member_id", "event_time", "arrival_time", "click", "position", "surface", "dwell_ms")
    assert len(spoil({name: np.zeros(0, np.int64) for name in names})["click"]) == 0
    empty, some = np.zeros(0, np.int64), np.array([0, 1, 1])
    assert SegmentSampler(empty, none, 2).draw(some, np.zeros(3)).tolist() == [-1, -1, -1]
    assert SegmentSampler(some, np.ones(3), 2).draw(empty, none).tolist() == []
    world = World(SimulatorConfig(members=3, posts_per_day=4, impressions=10))
    made = world.stock[0]
    posts = Posts(**{name: getattr(made, name)[:0] for name in Posts.__dataclass_fields__})
    assert world.content(posts).shape == (0, 50)
    assert len(Posts.join([posts, made]).post_id) == 4


def test_targets_alone_are_told_from_the_rest() -> None:
    """So that the tests above stand on codes that are unlike."""
    assert (TARGET, AUXILIARY) == (1, 2)
