# SPDX-License-Identifier: Apache-2.0
"""The operations that a ranker declares are what torch's own counter and the kernel's say."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from feature_repo.specs import KUAIRAND, SIMULATOR
from kernels.shared_context_attention import SeqlenInfo, attention_flops
from model import DCNv2Config, FeedSRConfig, HeadConfig, build_ranker
from model.accounting import layer_flops, linear_flops
from model.config import HeadName
from model.feed_sr import FeedSR
from model.ranker import Ranker
from tests.builders import offsets_of
from tests.model.variants import HEADS, VARIANTS, timed_rank_batch, variant

M, N = 30, 7


def counted_linear(ranker: Ranker) -> int:
    """Operations of the linear layers of one `rank`, by torch's counter."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        ranker.eval().rank(timed_rank_batch(0, [M], [N], spec=ranker.spec))
    by_operator = counter.get_flop_counts()["Global"]
    linear = (torch.ops.aten.mm, torch.ops.aten.addmm)
    return sum(count for operator, count in by_operator.items() if operator in linear)


def feed_sr(config: FeedSRConfig) -> FeedSR:
    ranker = build_ranker(config, SIMULATOR)
    assert isinstance(ranker, FeedSR)
    return ranker


def make_feed_sr(head: HeadName = "parallel_dcn", mlp: str = "gelu", layers: int = 3) -> FeedSR:
    config = FeedSRConfig(
        width=16, layers=layers, heads=2, mlp=mlp, head=HeadConfig(name=head, width=24, rank=4)
    )
    return feed_sr(config)


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
@pytest.mark.parametrize("head", HEADS)
def test_linear_layers_of_feed_sr(head: HeadName, mlp: str) -> None:
    ranker = make_feed_sr(head, mlp)
    parts = ranker.flops_by_part(M, N)
    assert sum(parts.values()) - parts["attention"] == counted_linear(ranker)
    assert ranker.flops(M, N) == sum(parts.values())


@pytest.mark.parametrize("name", VARIANTS)
def test_linear_layers_of_every_part(name: str) -> None:
    ranker = feed_sr(variant(name))
    parts = ranker.flops_by_part(M, N)
    assert sum(parts.values()) - parts["attention"] == counted_linear(ranker)
    deeper = variant(name).model_copy(update={"layers": ranker.config.layers + 1})
    added = feed_sr(deeper).flops(M, N) - ranker.flops(M, N)
    assert added == layer_flops(ranker.config, M, N)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_attention_of_feed_sr(layers: int) -> None:
    ranker = make_feed_sr(layers=layers)
    info = SeqlenInfo(cu_seqlens=offsets_of([2 * M]), cu_candidates=offsets_of([N]))
    shape = {"heads": 2, "head_dim": 8}
    want = (layers - 1) * attention_flops(info, **shape)
    want += attention_flops(info, context=False, **shape)
    assert ranker.flops_by_part(M, N)["attention"] == want


@pytest.mark.parametrize("head", ["stacked_dcn", "parallel_dcn"])
def test_dcnv2_costs_nothing_for_history(head: HeadName) -> None:
    ranker = build_ranker(DCNv2Config(head=HeadConfig(name=head, width=24)), KUAIRAND)
    assert ranker.flops(M, N) == counted_linear(ranker)
    assert ranker.flops(0, N) == ranker.flops(M, N)
    dense = build_ranker(DCNv2Config(head=HeadConfig(name=head, width=24)), SIMULATOR)
    assert dense.flops(M, N) == counted_linear(dense)


def test_training_counts_what_its_forward_multiplies() -> None:
    """But for the last layer, which finishes the rows of the loss alone."""
    ranker, pairs = make_feed_sr(layers=1), 1000
    targets, rows = 12, 2 * M
    [layer] = ranker.layers
    tokens = linear_flops(ranker.post_tokens, M) + linear_flops(ranker.action_tokens, M)
    fused = linear_flops(ranker.head, targets) + linear_flops(ranker.context_encoder, targets)
    want = linear_flops(layer, rows) + tokens + fused + 4 * 16 * pairs
    assert ranker.training_flops(M, targets, pairs) == want
    deeper = make_feed_sr(layers=3).training_flops(M, targets, pairs)
    assert deeper - want == 2 * (linear_flops(layer, rows) + 4 * 16 * pairs)
