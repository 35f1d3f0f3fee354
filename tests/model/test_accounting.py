# SPDX-License-Identifier: Apache-2.0
"""The declared costs are what torch's own counter, the kernel's and the tensors say."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from feature_repo.specs import KUAIRAND, SIMULATOR
from kernels.shared_context_attention import SeqlenInfo, attention_flops
from model import DCNv2Config, FeedSRConfig, HeadConfig, build_ranker
from model.accounting import cache_bytes, flops, parameter_bytes
from model.config import HEADS, HeadName
from model.feed_sr import FeedSR
from model.ranker import Ranker
from tests.builders import make_rank_batch, offsets_of

M, N = 30, 7


def counted_linear(ranker: Ranker) -> int:
    """Operations of the linear layers of one `rank`, by torch's counter."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        ranker.eval().rank(make_rank_batch(ranker.spec, 0, [M], [N]))
    by_operator = counter.get_flop_counts()["Global"]
    linear = (torch.ops.aten.mm, torch.ops.aten.addmm)
    return sum(count for operator, count in by_operator.items() if operator in linear)


def make_feed_sr(head: HeadName = "parallel_dcn", mlp: str = "gelu", layers: int = 3) -> FeedSR:
    config = FeedSRConfig(
        width=16, layers=layers, heads=2, mlp=mlp, head=HeadConfig(name=head, width=24, rank=4)
    )
    ranker = build_ranker(config, SIMULATOR)
    assert isinstance(ranker, FeedSR)
    return ranker


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
@pytest.mark.parametrize("head", HEADS)
def test_linear_layers_of_feed_sr(head: HeadName, mlp: str) -> None:
    ranker = make_feed_sr(head, mlp)
    parts = flops(ranker, M, N)
    assert sum(parts.values()) - parts["attention"] == counted_linear(ranker)
    assert ranker.flops(M, N) == sum(parts.values())


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_attention_of_feed_sr(layers: int) -> None:
    ranker = make_feed_sr(layers=layers)
    info = SeqlenInfo(cu_seqlens=offsets_of([2 * M]), cu_candidates=offsets_of([N]))
    shape = {"heads": 2, "head_dim": 8}
    want = (layers - 1) * attention_flops(info, **shape)
    want += attention_flops(info, context=False, **shape)
    assert flops(ranker, M, N)["attention"] == want


@pytest.mark.parametrize("head", ["stacked_dcn", "parallel_dcn"])
def test_dcnv2_costs_nothing_for_history(head: HeadName) -> None:
    ranker = build_ranker(DCNv2Config(head=HeadConfig(name=head, width=24)), KUAIRAND)
    assert ranker.flops(M, N) == counted_linear(ranker)
    assert ranker.flops(0, N) == ranker.flops(M, N)
    dense = build_ranker(DCNv2Config(head=HeadConfig(name=head, width=24)), SIMULATOR)
    assert dense.flops(M, N) == counted_linear(dense)


def test_bytes() -> None:
    ranker = make_feed_sr(layers=2)
    tensors = [*ranker.parameters(), *(b for b in ranker.buffers() if b.is_floating_point())]
    assert ranker.parameter_bytes() == sum(4 * t.numel() for t in tensors)
    assert cache_bytes(ranker, M) == 2 * 2 * (2 * M) * 16 * 4
    assert parameter_bytes(ranker.double()) == 2 * sum(4 * t.numel() for t in tensors)


def test_activations_are_what_a_block_keeps() -> None:
    """At d = 16, GELU: stream + norm (32), and the MLP's hidden layer twice (128), in float32."""
    assert make_feed_sr().activation_bytes(M, N) == (2 * M + N) * (32 + 128) * 4
