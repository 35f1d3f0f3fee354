# SPDX-License-Identifier: Apache-2.0
"""Three forms of one computation, and how much memory each holds where no gradient is wanted."""

from __future__ import annotations

import pytest
import torch

from kernels.shared_context_attention import SeqlenInfo
from model.config import FeedSRConfig
from model.layers.layer import Placement
from model.layers.rope import Rotation
from model.layers.stack import make_layer
from tests.builders import offsets_of
from tests.model.live_memory import LiveMemory

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
"""What is changed of a layer of width 12, and the numbers a token at its widest point, by hand.

Of a block that is the larger of two points: stream, norm, query, key and value before and after the
key's rotation (and the gate, before and after its sigmoid); or stream, norm, what was attended to
and its branch (and the gate), the MLP's hidden layer and its output, and of a gated MLP the product
of its halves. Of HSTU: stream, U beside Q, K beside V, Q and K rotated, and what was attended to.
"""


@pytest.mark.parametrize(("changes", "numbers"), WIDEST, ids=[str(w[0]) for w in WIDEST])
def test_no_more_is_alive_than_a_layer_needs_at_its_widest_point(
    changes: dict[str, object], numbers: int
) -> None:
    """An attention that needs nothing inside stands in: the rest is the layer's own."""
    layer = make_layer(FeedSRConfig.model_validate({"width": 12, "heads": 2, **changes}), 9)
    layer.attend = lambda context, candidates, info: (torch.zeros_like(context.v), None)
    rotation = Rotation.at(torch.arange(50), 6, 10_000.0, torch.float32)
    info = SeqlenInfo(cu_seqlens=offsets_of([50]))
    with torch.inference_mode(), LiveMemory() as memory:
        layer(torch.zeros(50, 12), None, Placement(info=info, context=rotation))
    assert memory.peak == 4 * 50 * numbers


def test_hstu_activates_in_place_where_no_gradient_is_wanted() -> None:
    """Tokens and their norm, keys beside values, and the keys once more, rotated."""
    layer = make_layer(FeedSRConfig(width=12, heads=2, block="hstu"), 9)
    rotation = Rotation.at(torch.arange(50), 6, 10_000.0, torch.float32)
    with torch.inference_mode(), LiveMemory() as memory:
        layer.project(torch.zeros(50, 12), rotation, queries=False)
    assert memory.peak == 4 * 50 * (2 + 2 + 1) * 12


@pytest.mark.parametrize(("block", "numbers"), [("transformer", 5 * 12 + 48), ("hstu", 8 * 12)])
def test_of_candidates_and_of_a_last_layer_no_more_is_alive(block: str, numbers: int) -> None:
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
    most = 4 * (50 + 20) * numbers
    with torch.inference_mode():
        for form, rest in (
            (layer, (torch.zeros(20, 12), placement)),
            (layer.forward_candidates, (torch.zeros(20, 12), placement)),
            (layer.forward_rows, (torch.arange(20), placement)),
        ):
            with LiveMemory() as memory:
                form(torch.zeros(50, 12), *rest)
            assert 0 < memory.peak <= most
