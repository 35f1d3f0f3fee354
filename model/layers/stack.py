# SPDX-License-Identifier: Apache-2.0
"""From a configuration to a layer of the stack: the one place that knows which layers there are."""

from __future__ import annotations

from model.config import FeedSRConfig
from model.layers.block import Block
from model.layers.hstu import HSTU
from model.layers.layer import Layer


def make_layer(config: FeedSRConfig, longest: int) -> Layer:
    """One layer of the configured kind, with new weights.

    Args:
        config: which, and its shape.
        longest: tokens of the longest context that is served, by which "hstu_published" divides.
    """
    return Block(config) if config.block == "transformer" else HSTU(config, longest)
