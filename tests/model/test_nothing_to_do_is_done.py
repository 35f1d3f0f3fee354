# SPDX-License-Identifier: Apache-2.0
"""Nothing to do is done: no members, no history, no candidates, no targets, no rows at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from feature_repo.kinds import Categorical, Embedding, Feature, Numeric
from kernels.shared_context_attention import SeqlenInfo, Tokens
from model import DCNv2Config, FeedSRConfig, RankerConfig, build_ranker
from model.accounting import hstu_layers_per_block
from model.batch import RankBatch, TrainBatch
from model.config import HeadName
from model.encoders import CategoricalEncoder, DenseEncoder, NumericBank, hash_ids, known_codes
from model.feed_sr import FeedSR
from model.files import load_optimizer_tensors, optimizer_tensors, parse_tensors, tensor_bytes
from model.heads import PositionOffsets, TaskHead
from model.isotonic import IsotonicCalibration
from model.layers.pointwise_attention import pointwise_attention
from model.layers.positions import Sites, make_positions
from model.layers.rope import Rotation
from model.rivals.history import append
from model.rivals.ligr import request_of
from model.rivals.sets import SetLayer, Sets
from tests.builders import TINY, make_rank_batch, make_train_batch, offsets_of
from tests.model.test_heads import HEAD
from tests.model.variants import HEADS, SMALL, VARIANTS, variant
from tests.rival_builders import RIVALS

CONFIGS: dict[str, RankerConfig] = {
    "dcnv2": DCNv2Config(head=HEAD),
    **{config.ranker: config for config in RIVALS},
    **{f"feed_sr {name}": variant(name) for name in VARIANTS},
    **{
        f"feed_sr {name}": SMALL.model_copy(update={"head": HEAD.model_copy(update={"name": name})})
        for name in HEADS
    },
}
NONE = torch.zeros(0, dtype=torch.int64)
every_ranker = pytest.mark.parametrize("name", CONFIGS)


def train_batch(lengths: Sequence[int], target_share: float) -> TrainBatch:
    return make_train_batch(TINY, 1, lengths, "day", target_share)


def rank_batch(lengths: Sequence[int], counts: Sequence[int]) -> RankBatch:
    batch = make_rank_batch(TINY, 1, lengths, counts)
    times = 1000 * torch.arange(sum(lengths))
    history = dataclasses.replace(batch.history, time_M=times)
    return dataclasses.replace(batch, history=history, time_N=torch.full((sum(counts),), 10**6))


@every_ranker
@pytest.mark.parametrize(
    ("lengths", "target_share"),
    [([], 0.5), ([0, 0], 0.5), ([5, 3], 0.0), ([5, 3], 1.1), ([0, 1], 1.1)],
    ids=["no sequence", "empty sequences", "no target", "no auxiliary", "no history"],
)
def test_training_without_some_rows(name: str, lengths: list[int], target_share: float) -> None:
    ranker, batch = build_ranker(CONFIGS[name], TINY).train(), train_batch(lengths, target_share)
    output = ranker(batch)
    assert output.logits_RK.shape == (len(batch.target_R), 3)
    assert output.auxiliary_AK.shape == (len(batch.auxiliary_A), 3)
    (output.logits_RK.sum() + output.auxiliary_AK.sum() + 0 * sum_of(ranker)).backward()
    for tensor in (output.logits_RK, output.auxiliary_AK, *(p.grad for p in ranker.parameters())):
        assert tensor is not None
        assert tensor.isfinite().all()


def sum_of(ranker: torch.nn.Module) -> Tensor:
    return torch.cat([p.flatten() for p in ranker.parameters()]).sum()


@every_ranker
@pytest.mark.parametrize("gradients", [True, False])
def test_ranking_without_some_rows(name: str, gradients: bool) -> None:
    ranker = build_ranker(CONFIGS[name], TINY).eval()
    for lengths, counts in (([], []), ([0], [0]), ([4], [0]), ([0], [3]), ([0, 3], [2, 0])):
        with torch.inference_mode(not gradients):
            logits = ranker.rank(rank_batch(lengths, counts))
        assert logits.shape == (sum(counts), 3)
        assert logits.isfinite().all()


@pytest.mark.parametrize("name", VARIANTS)
def test_remembering_nothing_and_adding_nothing(name: str) -> None:
    ranker = build_ranker(variant(name), TINY).eval()
    for lengths, counts in (([], []), ([0], [0]), ([4], [0]), ([0, 3], [2, 0])):
        with torch.inference_mode():
            whole, memories = ranker.rank_after(rank_batch(lengths, counts), [None] * len(lengths))
            nothing_new = rank_batch([0] * len(lengths), counts)
            again, same = ranker.rank_after(nothing_new, memories)
        assert whole.shape == again.shape == (sum(counts), 3)
        assert [m.shape[2] for m in same] == [2 * n for n in lengths]


def test_statistics_of_no_rows_stay() -> None:
    ranker = build_ranker(SMALL, TINY)
    before = {n: t.clone() for n, t in ranker.state_dict().items()}
    batch = train_batch([], 0.5)
    features = {**batch.impressions.features, **batch.impressions.actions}
    ranker.fit_statistics(batch.context_RC, features)
    assert all(torch.equal(t, before[n]) for n, t in ranker.state_dict().items())


def test_encoders_of_no_rows() -> None:
    feature = Feature(name="x", role="sequence", kind=Numeric(bins=4, dim=2), source="post")
    assert hash_ids(NONE, 9).tolist() == hash_ids(NONE, 1).tolist() == []
    assert known_codes(NONE, 3).tolist() == known_codes(NONE.float(), 3).tolist() == []
    assert CategoricalEncoder(Categorical(cardinality=4, dim=3))(NONE).shape == (0, 3)
    assert DenseEncoder(Embedding(dim=5))(torch.zeros(0, 5).half()).shape == (0, 5)
    assert NumericBank([feature])(torch.zeros(1, 0)).shape == (0, 3)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("training", [True, False])
def test_heads_of_no_rows(name: HeadName, training: bool) -> None:
    head = TaskHead(HEAD.model_copy(update={"name": name}), 5, TINY.tasks).train(training)
    assert head(torch.zeros(0, 5)).shape == (0, 3)
    assert PositionOffsets(4, 3)(NONE).shape == PositionOffsets(0, 3)(NONE).shape == (0, 3)
    assert IsotonicCalibration(3, 4)(torch.zeros(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("positions", ["rope", "learned", "none", "time_rope"])
def test_positions_of_no_tokens(positions: str) -> None:
    config = FeedSRConfig.model_validate({"width": 8, "heads": 2, "positions": positions})
    made, sites = make_positions(config, TINY), Sites(NONE.int(), NONE)
    assert made.add_to(torch.zeros(0, 8), sites).shape == (0, 8)
    turned = made.rotation(sites, torch.float32)(torch.zeros(0, 2, 4))
    assert turned.shape == (0, 2, 4)
    with torch.inference_mode():
        assert Rotation.at(NONE, 4, 10.0, torch.float32)(torch.zeros(0, 2, 4)).shape == (0, 2, 4)


@pytest.mark.parametrize("requests", [0, 2])
def test_pointwise_attention_of_no_tokens(requests: int) -> None:
    offsets = offsets_of([0] * requests)
    info = SeqlenInfo(cu_seqlens=offsets, cu_candidates=offsets)
    empty = Tokens(*(torch.zeros(0, 2, 4, requires_grad=True) for _ in range(3)))
    for divisor in (None, 7):
        out, out_N = pointwise_attention(empty, empty, info, activation="silu", divisor=divisor)
        assert out is not None
        assert out_N is not None
        assert out.shape == out_N.shape == (0, 2, 4)
        (out.sum() + out_N.sum()).backward()


def test_rivals_parts_of_no_rows() -> None:
    sets = Sets.grouped(NONE)
    assert (sets.parts, sets.back_N.tolist()) == ([], [])
    assert SetLayer(8, 2, 2.0, 0.0)(torch.zeros(0, 8), sets).shape == (0, 8)
    for lengths in ([], [0, 0], [3, 0, 1]):
        source_T, at_Q, cu_tokens = append(offsets_of(lengths), NONE)
        assert source_T.tolist() == list(range(sum(lengths)))
        assert at_Q.tolist() == []
        assert torch.equal(cu_tokens, offsets_of(lengths))
        impressions = train_batch(lengths, 0.5).impressions
        assert request_of(impressions, NONE).tolist() == []


def test_costs_of_nothing() -> None:
    ranker = build_ranker(SMALL, TINY)
    assert isinstance(ranker, FeedSR)
    assert set(ranker.flops_by_part(0, 0).values()) == {0}
    assert ranker.training_flops(0, 0, 0) == 0
    for config in CONFIGS.values():
        assert build_ranker(config, TINY).flops(0, 0) == 0
    with pytest.raises(ValueError, match="a history of 0 impressions: want at least 1"):
        hstu_layers_per_block(SMALL, 0, 5)


def test_files_of_no_tensors(tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert parse_tensors(tensor_bytes({}, {}), tmp_path) == ({}, {})
    optimizer = torch.optim.AdamW([torch.zeros(2, requires_grad=True)])
    assert optimizer_tensors(optimizer) == {}
    load_optimizer_tensors(optimizer, {})
    assert optimizer.state_dict()["state"] == {}
