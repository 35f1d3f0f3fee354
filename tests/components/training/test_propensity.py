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
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from components.config import DailyConfig, TrainConfig, load_config
from components.log.sources.feedback import EXAMINED_ACTIONS
from components.training.data import (
    Weighting,
    click_task,
    estimate_weighting,
    open_loader,
    to_train_batch,
)
from components.training.distributed import Group
from components.training.loss import CEILING, mean_over_tasks, observed, task_sums
from components.training.teachers import Teachers
from components.training.train import fit
from components.training.trainer import Trainer
from feature_repo.spec import Spec
from feature_repo.specs import KUAIRAND, SIMULATOR
from kernels.loader import LoaderConfig, Packed
from model import DCNv2Config, FeedSRConfig, HeadConfig, build_ranker
from model.checkpoint import load_model
from tests.shard_builders import random_lengths, sequence_columns, write_shards

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
        found = mean_over_tasks(task_sums(logits_PK[rows], labels_RK, weight_R), total)
        found.backward()
        return found

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
    found = learned(batch.labels_RK, batch.weight_R, place)
    assert found[:, CLICK] == pytest.approx([0.3] * 3, abs=0.03)
    assert found[:, LIKE] == pytest.approx([0.08] * 3, abs=0.02)
    skipped = [1 - examination[shown[p]].mean() for p in range(3)]
    assert found[:, SKIP] == pytest.approx(skipped, abs=0.015)
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


def test_hashes_of_the_shipped_specs_stay() -> None:
    """Shards and models that were made before are still theirs."""
    assert (KUAIRAND.hash, SIMULATOR.hash) == ("8013b31baf82b39a", "6b0fc89a2ced4a7b")


def test_a_spec_without_such_tasks_corrects_nothing() -> None:
    never = tuple(dataclasses.replace(t, examined=False) for t in SIMULATOR.tasks)
    spec = dataclasses.replace(SIMULATOR, tasks=never)
    packed = pack(np.array([0, 1, 1]), {"click": np.ones(3)})
    for propensity in (True, (1.0, 0.5)):
        config = TrainConfig(propensity=propensity)
        table = estimate_weighting([packed], spec, config, 0).propensity
        labels = to_train_batch(packed, spec, propensity=table).labels_RK
        assert labels[:, CLICK].tolist() == [1, 1, 1]


# --- the loss of a label above one


def test_a_label_above_one_is_its_likelihood_and_the_complements() -> None:
    """`y * -log p + (1 - y) * -log(1 - p)`, below the ceiling."""
    logits = torch.tensor([[-2.0], [0.0], [1.5], [4.9]])
    labels = torch.tensor([[4.0], [2.5], [1.0], [10.0]])
    p = torch.sigmoid(logits.double())
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log())
    far = task_sums(torch.tensor([[8.0]]), torch.tensor([[2.5]]), torch.ones(1))
    assert far.item() == pytest.approx(np.log1p(np.exp(-8)) - 1.5 * 5, abs=1e-5)
    for row in range(4):
        part = slice(row, row + 1)
        sums = task_sums(logits[part], labels[part], torch.tensor([3.0]))
        assert sums.item() == pytest.approx(3 * expected[row].item(), rel=1e-5)


@pytest.mark.parametrize("logit", [-1e30, -1e4, -5.0, 0.0, 4.0, 5.0, 6.0, 1e4, 1e30])
@pytest.mark.parametrize("label", [1.0, 1.5, 10.0])
def test_its_loss_is_finite_and_bounded_below(logit: float, label: float) -> None:
    z = torch.tensor([[logit]], requires_grad=True)
    loss = task_sums(z, torch.tensor([[label]]), torch.ones(1)).sum()
    assert loss.isfinite()
    assert loss.item() >= -(label - 1) * CEILING - 1e-5
    loss.backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    assert -label <= z.grad.item() <= 0
    if logit > CEILING:
        assert abs(z.grad.item()) < 0.01  # and no pull is left above the ceiling


@settings(deadline=None, max_examples=25)
@given(st.floats(0.02, 0.95), st.floats(0.11, 1.0))
def test_the_least_loss_is_at_the_mean_label(relevance: float, propensity: float) -> None:
    """Labels of 1 / e in a share of e * r of the rows: the mean is r, above one though they are."""
    z = torch.linspace(-6, 12, 3_601)
    labels = torch.tensor([[1 / propensity], [0.0]]).expand(2, len(z))
    weight = torch.tensor([propensity * relevance, 1 - propensity * relevance])
    losses = task_sums(z.expand(2, -1), labels, weight)
    assert z[losses.argmin()].sigmoid().item() == pytest.approx(relevance, abs=5e-3)


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


@pytest.mark.parametrize("ranker", [SMALL, DCNv2Config()], ids=["feed_sr", "dcnv2"])
@pytest.mark.parametrize("propensity", [True, (1.0, 0.4, 0.02)])
def test_a_run_with_propensities_trains_and_says_them(
    tmp_path: Path, ranker: Any, propensity: Any
) -> None:
    """With untimed rows, rows without a position, labels missing, teachers and offsets."""
    write_shards(tmp_path / "shards", SIMULATOR, random_lengths(60), shards=2)
    recipes = {
        "plain": RECIPE,
        "over": RECIPE.model_copy(
            update={"propensity": TrainConfig(propensity=propensity).propensity, "teachers": 1}
        ),
    }
    records = {
        name: fit(tmp_path / "shards", tmp_path / name, ranker, SIMULATOR, recipe, "day")
        for name, recipe in recipes.items()
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
    assert records["over"]["inputs"]["corrected"] == [t for t in TASKS if t != "skip"]
    model, _ = load_model(tmp_path / "over", SIMULATOR)
    assert all(p.isfinite().all() for p in model.parameters())


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
