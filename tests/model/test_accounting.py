# SPDX-License-Identifier: Apache-2.0
"""The declared costs are what torch's own counter, the kernel's and the tensors say."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from feature_repo.specs import KUAIRAND, SIMULATOR
from kernels.shared_context_attention import SeqlenInfo, attention_flops
from model import DCNv2Config, FeedSRConfig, HeadConfig, build_ranker
from model.accounting import (
    cache_bytes,
    flops,
    hstu_layers_per_block,
    layer_flops,
)
from model.config import HEADS, HeadName
from model.feed_sr import FeedSR
from model.layers.layer import Placement
from model.layers.rope import Rotation
from model.layers.stack import make_layer
from model.ranker import Ranker
from tests.builders import offsets_of
from tests.model.live_memory import LiveMemory
from tests.model.variants import VARIANTS, timed_rank_batch, variant

M, N = 30, 7


def counted_linear(ranker: Ranker) -> int:
    """Operations of the linear layers of one `rank`, by torch's counter."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        ranker.eval().rank(timed_rank_batch(0, [M], [N], spec=ranker.spec))
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


@pytest.mark.parametrize("name", VARIANTS)
def test_linear_layers_of_every_part(name: str) -> None:
    ranker = build_ranker(variant(name), SIMULATOR)
    assert isinstance(ranker, FeedSR)
    parts = flops(ranker, M, N)
    assert sum(parts.values()) - parts["attention"] == counted_linear(ranker)
    deeper = variant(name).model_copy(update={"layers": ranker.config.layers + 1})
    added = build_ranker(deeper, SIMULATOR).flops(M, N) - ranker.flops(M, N)  # type: ignore[operator]
    assert added == layer_flops(ranker.config, M, N)


def test_hstu_layers_that_cost_one_block() -> None:
    """12 D^2 multiply-adds a token against 5 D^2, and attention's 2 D a pair for both."""
    wide = FeedSRConfig(width=4096, heads=2)
    assert hstu_layers_per_block(wide, 1) == pytest.approx(12 / 5, rel=1e-3)
    d, tokens = 64, 200
    own = FeedSRConfig(width=d)
    pairs = 2 * d * (tokens + 1) / 2
    assert hstu_layers_per_block(own, tokens // 2) == pytest.approx(
        (12 * d * d + pairs) / (5 * d * d + pairs)
    )
    assert hstu_layers_per_block(own, 10**6) == pytest.approx(1, abs=1e-3)
    hstu = own.model_copy(update={"block": "hstu"})
    assert hstu_layers_per_block(hstu, 100) == hstu_layers_per_block(own, 100)
    gated = own.model_copy(update={"attention": "relu", "attention_gate": True})
    assert hstu_layers_per_block(gated, 1) > hstu_layers_per_block(own, 1)


def test_matched_layers_cost_the_same() -> None:
    """What a study does with the figure: the nearest whole number of layers."""
    config = FeedSRConfig(width=64, layers=5, heads=2)
    layers = config.layers * hstu_layers_per_block(config, 50, 20)
    hstu = config.model_copy(update={"block": "hstu", "layers": round(layers)})
    costs = [c.layers * layer_flops(c, 50, 20) for c in (config, hstu)]
    assert costs[1] == pytest.approx(costs[0], rel=0.5 / layers)


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
    assert ranker.double().parameter_bytes() == 2 * sum(4 * t.numel() for t in tensors)


def test_activations_are_what_a_layer_keeps() -> None:
    """At d = 16 in float32. GELU: stream, norm, attended, branch and output (5 * 16), and 64 hidden
    numbers; HSTU: 8 * 16.
    """
    assert make_feed_sr().activation_bytes(M, N) == (2 * M + N) * (80 + 64) * 4
    hstu = build_ranker(FeedSRConfig(width=16, block="hstu"), SIMULATOR)
    assert isinstance(hstu, FeedSR)
    assert hstu.activation_bytes(M, N) == (2 * M + N) * 8 * 16 * 4
    assert hstu.double().activation_bytes(M, N) == (2 * M + N) * 8 * 16 * 8
    assert cache_bytes(hstu, M) == 2 * 2 * (2 * M) * 16 * 8


# What is changed of a layer of width 12, and the numbers a token at its widest point, by hand.
WIDEST: list[tuple[dict[str, object], int]] = [
    ({}, 5 * 12 + 48),
    ({"mlp": "swiglu"}, 5 * 12 + 64 + 32),
    ({"mlp_ratio": 1.0}, 6 * 12),
    ({"mlp_ratio": 1.25}, 5 * 12 + 15),
    ({"mlp_ratio": 0.5, "attention_gate": True}, 8 * 12),
    ({"attention_gate": True}, 6 * 12 + 48),
    ({"norm": "post"}, 5 * 12 + 48),
    ({"residual": "gated"}, 5 * 12 + 48),
    ({"block": "hstu"}, 8 * 12),
    ({"block": "hstu", "norm": "post"}, 8 * 12),
    ({"block": "hstu_published"}, 8 * 12),
]


@pytest.mark.parametrize(("changes", "numbers"), WIDEST, ids=[str(w[0]) for w in WIDEST])
def test_a_layer_holds_what_it_says_at_its_widest_point(
    changes: dict[str, object], numbers: int
) -> None:
    """An attention that needs nothing inside stands in: the rest is the layer's own."""
    layer = make_layer(FeedSRConfig.model_validate({"width": 12, "heads": 2, **changes}), 9)
    layer.attend = lambda context, candidates, info: (torch.zeros_like(context.v), None)
    rotation = Rotation.at(torch.arange(50), 6, 10_000.0, torch.float32)
    info = SeqlenInfo(cu_seqlens=offsets_of([50]))
    with torch.inference_mode(), LiveMemory() as memory:
        layer(torch.zeros(50, 12), None, Placement(info=info, context=rotation))
    assert layer.widest() == numbers
    assert memory.peak == 4 * 50 * numbers


def test_hstu_activates_in_place_where_no_gradient_is_wanted() -> None:
    """Tokens and their norm, keys beside values, and the keys once more, rotated."""
    layer = make_layer(FeedSRConfig(width=12, heads=2, block="hstu"), 9)
    rotation = Rotation.at(torch.arange(50), 6, 10_000.0, torch.float32)
    with torch.inference_mode(), LiveMemory() as memory:
        layer.project(torch.zeros(50, 12), rotation, queries=False)
    assert memory.peak == 4 * 50 * (2 + 2 + 1) * 12


@pytest.mark.parametrize("block", ["transformer", "hstu"])
def test_of_candidates_and_of_a_last_layer_no_more_is_alive(block: str) -> None:
    layer = make_layer(FeedSRConfig.model_validate({"width": 12, "heads": 2, "block": block}), 9)
    layer.attend = lambda context, candidates, info: (
        None if context.q is None else torch.zeros_like(context.v),
        None if candidates is None else torch.zeros_like(candidates.v),
    )
    context, candidates = (
        Rotation.at(torch.arange(rows), 6, 10_000.0, torch.float32) for rows in (50, 20)
    )
    info = SeqlenInfo(cu_seqlens=offsets_of([50]), cu_candidates=offsets_of([20]))
    placement = Placement(info=info, context=context, candidates=candidates)
    most = 4 * (50 + 20) * layer.widest()
    with torch.inference_mode():
        for form, rest in (
            (layer, (torch.zeros(20, 12), placement)),
            (layer.forward_candidates, (torch.zeros(20, 12), placement)),
            (layer.forward_rows, (torch.arange(20), placement)),
        ):
            with LiveMemory() as memory:
                form(torch.zeros(50, 12), *rest)
            assert 0 < memory.peak <= most


@pytest.mark.parametrize("name", VARIANTS)
def test_a_memory_has_the_bytes_that_are_declared(name: str) -> None:
    ranker = build_ranker(variant(name), SIMULATOR).eval()
    assert isinstance(ranker, FeedSR)
    batch = timed_rank_batch(0, [M], [N], spec=SIMULATOR)
    with torch.inference_mode():
        (memory,) = ranker.rank_after(batch, [None])[1]
    assert memory.nbytes == cache_bytes(ranker, M)
