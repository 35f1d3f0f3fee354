# SPDX-License-Identifier: Apache-2.0
"""Labels over propensities: relevance comes out where posts were shown at unlike positions, and
only labels that need a look at the post are touched.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from components.config import DailyConfig, TrainConfig, load_config
from components.log.sources.feedback import EXAMINED_ACTIONS
from components.training.data import Weighting, open_loader, shard_format, to_train_batch
from components.training.distributed import Group
from components.training.loss import mean_over_tasks, observed, task_sums
from components.training.propensity import click_task, estimate_propensity, propensity_table
from components.training.teachers import Teachers
from components.training.trainer import Trainer
from feature_repo.spec import Spec
from feature_repo.specs import KUAIRAND, SIMULATOR
from kernels.loader import LoaderConfig, Packed, read_shard
from model import FeedSRConfig, HeadConfig, build_ranker
from tests.shard_builders import random_lengths, sequence_columns, write_shards
from tests.training_builders import shard_without_rows

TASKS = SIMULATOR.task_names
CLICK, SKIP, LIKE = (TASKS.index(name) for name in ("click", "skip", "like"))
HEAD = HeadConfig(name="linear", gate_dropout=0)
SMALL = FeedSRConfig(width=16, layers=1, heads=2, embedding_dropout=0, head=HEAD)
RECIPE = TrainConfig(global_batch=16, micro_batch=16, learning_rate=3e-3)
PLAIN: dict[str, Any] = {"age_half_life_days": 1e9, "position_half_life": 10**9}


def pack(position: np.ndarray, acts: dict[str, np.ndarray], loss: int = 1) -> Packed:
    """Sequences of one impression of the simulator's spec, with these positions and actions."""
    count = len(position)
    columns = sequence_columns(SIMULATOR, np.zeros(count, np.int64), np.random.default_rng(0))
    columns |= {"known": np.zeros(count, np.int32), "loss": np.full(count, loss, np.int8)}
    columns |= {name: np.zeros(count, np.int8) for name in TASKS}
    columns |= {name: np.asarray(act, np.int8) for name, act in acts.items()}
    targets = count if loss == 1 else 0
    return Packed(
        columns={**columns, "position": np.asarray(position, np.int16)},
        cu_seqlens=np.arange(count + 1, dtype=np.int32),
        context_RC=np.zeros((targets, SIMULATOR.context_width), np.float32),
        sequence_S=np.arange(count),
        keys={},
    )


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, SIMULATOR, random_lengths(4), shards=1)
    return Trainer(
        model=build_ranker(SMALL, SIMULATOR, 0),
        spec=SIMULATOR,
        config=RECIPE,
        loader=open_loader(folder, SIMULATOR, LoaderConfig(batch=4)),
        weighting=Weighting(as_of_ms=0, **PLAIN),
        group=Group(rank=0, world=1, device=torch.device("cpu")),
        inputs="",
        checkpoints=folder / "none",
    )


def learned(labels_RK: Tensor, weight_R: Tensor, place_R: np.ndarray) -> np.ndarray:
    """The probabilities `[places, K]` of one logit a place and task, at the least loss."""
    logits_PK = torch.zeros(int(place_R.max()) + 1, labels_RK.shape[1], requires_grad=True)
    rows = torch.from_numpy(place_R)
    total = observed(labels_RK, weight_R)
    optimizer = torch.optim.LBFGS([logits_PK], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        mean = mean_over_tasks(task_sums(logits_PK[rows], labels_RK, weight_R), total)
        mean.backward()
        return mean

    optimizer.step(loss)
    return logits_PK.detach().sigmoid().numpy()


def test_posts_of_equal_relevance_come_out_equal_wherever_they_were_shown(
    trainer: Trainer,
) -> None:
    """The position-based model with known propensities; a ranked feed, and a deep place."""
    rng = np.random.default_rng(0)
    examination = (1.0 + np.arange(8)) ** -0.9
    shown = np.array([[0, 0, 0, 1, 2], [1, 2, 4, 6, 7], [5, 6, 6, 7, 7]])
    count = 20_000
    place = np.repeat(np.arange(3), count)
    position = shown[place, rng.integers(0, 5, 3 * count)]
    looked = rng.random(3 * count) < examination[position]
    click = looked & (rng.random(3 * count) < 0.3)
    like = (looked & (rng.random(3 * count) < 0.08)).astype(np.int8)
    like[rng.random(3 * count) < 0.2] = -1
    packed = pack(position, {"click": click, "like": like, "skip": ~looked})
    trainer.weighting = Weighting(as_of_ms=0, propensity=tuple(examination), **PLAIN)
    batch = trainer._prepare(packed)
    corrected = learned(batch.labels_RK, batch.weight_R, place)
    assert corrected[:, CLICK] == pytest.approx([0.3] * 3, abs=0.03)
    assert corrected[:, LIKE] == pytest.approx([0.08] * 3, abs=0.02)
    skipped = [1 - examination[shown[p]].mean() for p in range(3)]
    assert corrected[:, SKIP] == pytest.approx(skipped, abs=0.015)
    # what this cannot be mistaken for: rows weighed by 1 / e, positives and negatives alike
    plain = to_train_batch(packed, SIMULATOR)
    inverse = torch.from_numpy(1 / examination[position]).float()
    weighed = learned(plain.labels_RK, inverse, place)[:, CLICK]
    harmonic = [0.3 / (1 / examination[shown[p]]).mean() for p in range(3)]
    assert weighed == pytest.approx(harmonic, abs=0.02)
    assert (weighed[1:] < 0.1).all()
    unweighted = learned(plain.labels_RK, torch.ones(3 * count), place)[:, CLICK]
    assert unweighted == pytest.approx([0.3 * (1 - s) for s in skipped], abs=0.015)


def test_a_label_of_an_examined_task_is_divided_by_its_positions_propensity() -> None:
    position = np.array([0, 1, 2, 70, -1, 1, 1])
    done = np.array([1, 1, 1, 1, 1, 0, -1])
    table = (0.8, 0.5, 0.25)
    for code in (1, 2):
        packed = pack(position, dict.fromkeys(TASKS, done), code)
        batch = to_train_batch(packed, SIMULATOR, propensity=table)
        labels = batch.labels_RK if code == 1 else batch.auxiliary_labels_AK
        assert labels.dtype == torch.float32
        for k, name in enumerate(TASKS):
            expected = [1, 1, 1, 1, 1] if name == "skip" else [1.25, 2, 4, 4, 1]
            assert labels[:, k].tolist()[:6] == [*expected, 0], name
            assert labels[6, k].isnan()
        other = batch.auxiliary_labels_AK if code == 1 else batch.labels_RK
        assert other.shape == (0, len(TASKS))


def test_nothing_else_of_a_batch_depends_on_propensities() -> None:
    rng = np.random.default_rng(0)
    acts = {name: rng.integers(-1, 2, 50) for name in TASKS}
    packed = pack(rng.integers(-1, 9, 50), acts)
    plain = Weighting(as_of_ms=0, **PLAIN)
    table = dataclasses.replace(plain, propensity=(1.0, 0.5))
    assert table.weigh(packed).tolist() == plain.weigh(packed).tolist()
    ours = to_train_batch(packed, SIMULATOR, propensity=(1.0, 0.5))
    theirs = to_train_batch(packed, SIMULATOR)
    for name in ("target_R", "context_RC", "weight_R", "position_R", "auxiliary_A"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    certain = to_train_batch(packed, SIMULATOR, propensity=(1.0,))
    assert torch.equal(certain.labels_RK.nan_to_num(9), theirs.labels_RK.nan_to_num(9))
    assert not torch.equal(ours.labels_RK.nan_to_num(9), theirs.labels_RK.nan_to_num(9))


@pytest.mark.parametrize("spec", [KUAIRAND, SIMULATOR], ids=lambda s: s.name)
def test_the_spec_says_which_tasks_need_a_look_at_the_post(spec: Spec) -> None:
    assert {t.name for t in spec.tasks if t.examined} == set(EXAMINED_ACTIONS)
    assert {t.name for t in spec.tasks if not t.examined} == {"skip"}
    turned = dataclasses.replace(
        spec, tasks=tuple(dataclasses.replace(t, examined=not t.examined) for t in spec.tasks)
    )
    assert turned.hash == spec.hash  # a model is served with it as before
    assert turned != spec
    assert click_task(spec) == "click"
    assert click_task(turned) == "skip"
    never = tuple(dataclasses.replace(t, examined=False) for t in spec.tasks)
    assert click_task(dataclasses.replace(spec, tasks=never)) is None


def test_a_spec_without_such_tasks_corrects_nothing() -> None:
    never = tuple(dataclasses.replace(t, examined=False) for t in SIMULATOR.tasks)
    spec = dataclasses.replace(SIMULATOR, tasks=never)
    packed = pack(np.array([0, 1, 1]), {"click": np.ones(3)})
    for propensity in (True, (1.0, 0.5)):
        config = TrainConfig(propensity=propensity)
        table = propensity_table([packed], spec, config)
        labels = to_train_batch(packed, spec, propensity=table).labels_RK
        assert labels[:, CLICK].tolist() == [1, 1, 1]


# --- the table of a log


def test_the_propensity_table_finds_the_rates() -> None:
    rng = np.random.default_rng(0)
    position = rng.integers(-1, 5, 400_000).astype(np.int16)
    rate = np.array([0.5, 0.4, 0.25, 0.01, 0.6, 0.9])[position]
    click = (rng.random(len(position)) < rate).astype(np.int8)
    click[::7] = -1
    table = estimate_propensity([pack(position, {"click": click})], "click")
    assert len(table) == 60
    assert table[:5] == pytest.approx([1, 0.8, 0.5, 0.1, 1.0], abs=0.02)
    assert min(table) >= 0.1
    assert max(table) <= 1


def test_the_propensity_table_by_hand() -> None:
    """Rates are smoothed by a hundred impressions of the overall one; the last place is shared."""
    position = np.repeat(np.array([0, 1, 59, 75, -1], np.int16), [300, 100, 50, 50, 40])
    click = np.zeros(540, np.int8)
    click[:90] = 1  # of the 300 at place 0
    click[300:310] = 1  # of the 100 at place 1
    click[400], click[450] = 1, 1  # of the 100 at the last place
    click[500:540] = 1  # without a place
    click[290:300] = -1
    table = estimate_propensity([pack(position, {"click": click})], "click")
    overall = 102 / 490
    rate = [(90 + 100 * overall) / 390, (10 + 100 * overall) / 200, overall]
    rate.append((2 + 100 * overall) / 200)
    assert len(table) == 60
    assert [table[p] for p in (0, 1, 30, 59)] == pytest.approx([r / rate[0] for r in rate])


def test_one_click_makes_a_table_whose_floor_is_a_tenth() -> None:
    click = np.array([1, 0], np.int8)
    table = estimate_propensity([pack(np.array([0, 1]), {"click": click})], "click")
    overall = 0.5
    assert table[1] == pytest.approx((50 / 101) / (51 / 101))
    assert table[2] == pytest.approx(overall / (51 / 101))
    click = np.repeat(np.array([1, 0], np.int8), 100_000)
    position = np.repeat(np.array([0, 1], np.int16), 100_000)
    low = estimate_propensity([pack(position, {"click": click})], "click")
    assert low[:2] == (1.0, 0.1)


@pytest.mark.parametrize("position", [-1, 3])
def test_unknown_positions_or_no_clicks_leave_no_table(position: int) -> None:
    click = np.zeros(10, np.int8) if position >= 0 else np.ones(10, np.int8)
    packed = pack(np.full(10, position), {"click": click})
    assert estimate_propensity([packed], "click") == ()


def test_no_row_leaves_no_table(tmp_path: Path) -> None:
    packed = read_shard(shard_without_rows(tmp_path / "none"), shard_format(KUAIRAND))
    for packs in ([], [packed]):
        assert estimate_propensity(packs, "click") == ()
        assert propensity_table(packs, KUAIRAND, TrainConfig(propensity=True)) == ()


# --- with the rest of training


def test_teachers_are_mixed_with_what_was_corrected() -> None:
    """They were trained on labels over propensities too: what they say is not divided again."""
    position, done = np.array([1, 1, 1]), np.array([1, 0, -1])
    packed = pack(position, {"click": done})
    batch = to_train_batch(packed, SIMULATOR, propensity=(1.0, 0.25))
    teacher = build_ranker(SMALL, SIMULATOR, 3).eval()
    said = teacher(batch).logits_RK.sigmoid()[:, CLICK].tolist()
    mixed = Teachers([teacher], 0.75).mix(batch).labels_RK[:, CLICK]
    assert mixed.tolist()[:2] == pytest.approx([0.25 * 4 + 0.75 * said[0], 0.75 * said[1]])
    assert mixed[2].isnan()


@pytest.mark.parametrize("propensity", [[], [0.0], [1.5], [float("nan")], ["x"], "exact", 1, None])
def test_a_propensity_that_is_none_is_one_sentence(tmp_path: Path, propensity: Any) -> None:
    values = load_config("demo").model_dump(mode="json")
    values["cold"]["propensity"] = propensity
    with pytest.raises(ValueError, match=r"is no propensity; want false, .estimated., or for each"):
        DailyConfig.model_validate(values)


def test_a_propensity_is_kept_in_a_configuration_and_its_fingerprint() -> None:
    assert '"propensity":false' in TrainConfig().model_dump_json()
    assert TrainConfig(propensity=True).propensity == "estimated"
    given_ = TrainConfig(propensity=(1.0, 0.5))
    assert TrainConfig.model_validate_json(given_.model_dump_json()) == given_
