# SPDX-License-Identifier: Apache-2.0
"""Batches from shards against their rows, and the weight of a target against its formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from components.config import TrainConfig
from components.training.data import (
    Weighting,
    estimate_weighting,
    evaluation_batches,
    open_loader,
    shard_format,
    to_train_batch,
    window_limit,
)
from components.training.propensity import estimate_propensity
from feature_repo.spec import DAY_MS
from feature_repo.specs import KUAIRAND, SIMULATOR
from kernels.loader import LoaderConfig, Packed, read_shard
from kernels.loader.reference import take
from model import DCNv2Config, build_ranker
from tests.shard_builders import START_MS, random_lengths, write_shards
from tests.training_builders import NOISY, shard_without_rows


@pytest.mark.parametrize("spec", [KUAIRAND, SIMULATOR], ids=lambda s: s.name)
def test_a_batch_is_what_the_shard_says(tmp_path: Path, spec) -> None:
    (path,) = write_shards(tmp_path, spec, random_lengths(20), shards=1)
    packed = take(read_shard(path, shard_format(spec)), np.arange(20))
    packed.columns["click"][::5] = -1
    batch = to_train_batch(packed, spec)
    loss = packed.columns["loss"]
    assert batch.target_R.tolist() == np.flatnonzero(loss == 1).tolist()
    assert batch.auxiliary_A.tolist() == np.flatnonzero(loss == 2).tolist()
    assert batch.context_RC.shape == (len(batch.target_R), spec.context_width)
    assert batch.position_R.dtype == torch.int64
    for k, task in enumerate(spec.task_names):
        for rows, ours in (
            (batch.target_R, batch.labels_RK),
            (batch.auxiliary_A, batch.auxiliary_labels_AK),
        ):
            value = packed.columns[task][rows].astype(np.float32)
            expected = np.where(value < 0, np.nan, value)
            np.testing.assert_array_equal(ours[:, k].numpy(), expected)
    assert batch.labels_RK[:, spec.task_names.index("click")].isnan().any()
    impressions = batch.impressions
    assert set(impressions.features) == {f.name for f in spec.with_role("sequence")}
    assert set(impressions.actions) == {f.name for f in spec.with_role("action")}
    for name, tensor in {**impressions.features, **impressions.actions}.items():
        np.testing.assert_array_equal(tensor.numpy(), packed.columns[name])
    assert impressions.known_M.tolist() == packed.columns["known"].tolist()
    assert impressions.cu_seqlens.tolist() == packed.cu_seqlens.tolist()
    assert impressions.time_M is not None
    assert impressions.time_M.tolist() == packed.columns["event_time"].tolist()


def pack(lengths: list[int], **columns: list) -> Packed:
    """A pack where every impression is a target."""
    total = sum(lengths)
    given = {name: np.array(values) for name, values in columns.items()}
    plain = {"event_time": np.zeros(total, np.int64), "position": np.full(total, -1, np.int16)}
    return Packed(
        columns={**plain, "loss": np.ones(total, np.int8), **given},
        cu_seqlens=np.cumsum([0, *lengths]).astype(np.int32),
        context_RC=np.zeros((total, 1), np.float32),
        sequence_S=np.arange(len(lengths)),
        keys={},
    )


def weights(packed: Packed, **changes) -> list[float]:
    plain = {"as_of_ms": 0, "age_half_life_days": 60.0, "position_half_life": None}
    return Weighting(**{**plain, **changes}).weigh(packed).tolist()


def test_older_places_weigh_less_by_the_sequences_own_length() -> None:
    expected = [0.5 ** (3 / 4), 0.5 ** (2 / 4), 0.5 ** (1 / 4), 1, 0.5 ** (1 / 2), 1]
    assert weights(pack([4, 2])) == pytest.approx(expected)
    fixed = weights(pack([4, 2]), position_half_life=1)
    assert fixed == pytest.approx([0.125, 0.25, 0.5, 1, 0.5, 1])


def test_weight_halves_with_age_and_the_future_is_not_heavier() -> None:
    times = [0, 60 * DAY_MS, 90 * DAY_MS, 120 * DAY_MS, 130 * DAY_MS]
    packed = pack([1] * 5, event_time=times)
    ours = weights(packed, as_of_ms=120 * DAY_MS)
    assert ours == pytest.approx([0.25, 0.5, 0.5**0.5, 1, 1])


def test_a_window_is_read_to_twice_its_most() -> None:
    assert window_limit(KUAIRAND) == 2 * (1000 + 64) == 2128


def test_batches_to_evaluate_have_64_sequences(tmp_path: Path) -> None:
    write_shards(tmp_path, KUAIRAND, [2] * 70, shards=1)
    sizes = [packed.num_sequences for _, packed in evaluation_batches(tmp_path, KUAIRAND)]
    assert sizes == [64, 6]


def test_a_weighting_of_its_own_scale() -> None:
    packed = pack([2])
    assert weights(packed) == pytest.approx([0.5**0.5, 1])
    assert weights(packed, scale=3.0) == pytest.approx([3 * 0.5**0.5, 3])


def test_estimated_weights_halve_as_they_are_told() -> None:
    """By age and by place, both unlike their defaults, over two packs."""
    packs = [pack([2], event_time=[0, DAY_MS]), pack([1], event_time=[3 * DAY_MS])]
    config = TrainConfig(age_half_life_days=2.0, position_half_life=4)
    weighting = estimate_weighting(packs, KUAIRAND, config, 5 * DAY_MS)
    plain = [0.5 ** (1 / 4 + 5 / 2), 0.5 ** (4 / 2), 0.5 ** (2 / 2)]
    mean = sum(plain) / 3
    ours = [w for each in packs for w in weighting.weigh(each).tolist()]
    assert ours == pytest.approx([w / mean for w in plain], rel=1e-5)
    assert weighting.scale == pytest.approx(1 / mean, rel=1e-6)


def test_weights_average_one_over_the_training_set(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, KUAIRAND, random_lengths(200), shards=2)
    packs = [read_shard(path, shard_format(KUAIRAND)) for path in paths]
    as_of = START_MS + 30 * DAY_MS
    weighting = estimate_weighting(packs, KUAIRAND, TrainConfig(propensity=True), as_of)
    assert weighting.propensity[3] < 0.6 < weighting.propensity[0] == 1
    assert weighting.propensity == estimate_propensity(packs, "click")
    drawn = np.concatenate([weighting.weigh(p) for p in packs])
    assert drawn.mean() == pytest.approx(1, abs=1e-5)
    assert drawn.std() > 0.1
    plain = estimate_weighting(packs, KUAIRAND, TrainConfig(), as_of)
    assert plain.propensity == ()
    assert plain.scale == weighting.scale


def test_evaluation_reads_everything_in_order(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, KUAIRAND, random_lengths(50), shards=2)
    seen = list(evaluation_batches(tmp_path, KUAIRAND, sequences=16))
    members = np.concatenate([packed.keys["member_id"] for _, packed in seen])
    stored = [read_shard(p, shard_format(KUAIRAND)) for p in paths]
    assert members.tolist() == np.concatenate([p.keys["member_id"] for p in stored]).tolist()
    post = torch.cat([batch.impressions.features["post_id"] for batch, _ in seen])
    assert post.tolist() == np.concatenate([p.columns["post_id"] for p in stored]).tolist()
    assert all((batch.weight_R == 1).all() for batch, _ in seen)


def test_a_folder_without_shards_or_of_another_spec_is_refused(tmp_path: Path) -> None:
    config = LoaderConfig(batch=8)
    with pytest.raises(ValueError, match=r"there are no shards in .*build the sequences first"):
        open_loader(tmp_path, KUAIRAND, config)
    write_shards(tmp_path, SIMULATOR, [3, 4], shards=1)
    with pytest.raises(ValueError, match=r"part-00000\.arrow"):
        open_loader(tmp_path, KUAIRAND, config)
    with pytest.raises(ValueError, match="has freshness 'day', want 'immediate'"):
        open_loader(tmp_path, SIMULATOR, config, "immediate")
    assert open_loader(tmp_path, SIMULATOR, config, "day").sequences == 2


# --- no rows


def test_a_shard_without_a_sequence_gives_no_batch(tmp_path: Path) -> None:
    folder = shard_without_rows(tmp_path / "none").parent
    assert list(evaluation_batches(folder, KUAIRAND)) == []
    loader = open_loader(folder, KUAIRAND, LoaderConfig(batch=4))
    assert (loader.sequences, loader.steps) == (0, 0)


@pytest.mark.parametrize("ranker", [NOISY, DCNv2Config()], ids=["feed_sr", "dcnv2"])
def test_a_pack_without_a_sequence_is_a_batch_without_rows(tmp_path: Path, ranker) -> None:
    packed = read_shard(shard_without_rows(tmp_path / "none"), shard_format(KUAIRAND))
    config = TrainConfig(propensity=True)
    weighting = estimate_weighting([packed], KUAIRAND, config, 0)
    assert weighting == estimate_weighting([], KUAIRAND, config, 0)
    assert (weighting.scale, weighting.propensity) == (1.0, ())
    batch = to_train_batch(packed, KUAIRAND, weighting.weigh(packed), (1.0, 0.5))
    assert batch.labels_RK.shape == batch.auxiliary_labels_AK.shape == (0, len(KUAIRAND.tasks))
    assert list(packed.cut(4)) == []
    model = build_ranker(ranker, KUAIRAND, 0).eval()
    assert model(batch).logits_RK.shape == batch.labels_RK.shape
