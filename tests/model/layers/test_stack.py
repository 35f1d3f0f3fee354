# SPDX-License-Identifier: Apache-2.0
"""The configured layer is the one that is built, with its attention, place of norm and residual."""

from __future__ import annotations

from functools import partial
from typing import get_args

import pytest
import torch

from kernels.shared_context_attention import shared_context_attention
from model.config import BlockName, FeedSRConfig
from model.layers.block import Block
from model.layers.hstu import HSTU
from model.layers.stack import make_layer

KINDS = {"transformer": Block, "hstu": HSTU, "hstu_published": HSTU}


@pytest.mark.parametrize("name", get_args(BlockName))
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_name_is_a_layer(name: BlockName, norm: str) -> None:
    layer = make_layer(FeedSRConfig.model_validate({"block": name, "norm": norm}), 9)
    assert type(layer) is KINDS[name]
    assert layer.norm_first == (norm == "pre")


def test_the_longest_context_is_for_the_published_layer_alone() -> None:
    for name in get_args(BlockName):
        attend = make_layer(FeedSRConfig(block=name), 77).attend
        divisor = attend.keywords.get("divisor") if isinstance(attend, partial) else None
        assert divisor == (77 if name == "hstu_published" else None)
    assert make_layer(FeedSRConfig(), 77).attend is shared_context_attention


def test_two_layers_have_weights_of_their_own() -> None:
    first, second = (make_layer(FeedSRConfig(), 9).state_dict() for _ in range(2))
    assert not torch.equal(first["attention.query.weight"], second["attention.query.weight"])
