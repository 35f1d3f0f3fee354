# SPDX-License-Identifier: Apache-2.0
"""An HSTU layer (arXiv 2402.17152, section 3): gated SiLU attention, and no MLP.

    U, V, Q, K = silu(W1 x)        y = W2 (LayerNorm(attend(Q, K, V)) * U)        x + y

`attend` is SiLU of the scores, divided (`model.layers.pointwise_attention`). Of block
"hstu_published" it is that of the authors' code (github.com/meta-recsys/generative-recommenders,
research/modeling): scores as they are, divided by the length of the longest sequence, LayerNorms
with an epsilon of 1e-6. Block "hstu" departs from it three times: it divides by how many keys a
token sees, scales the scores by 1 / sqrt(head_dim) as attention elsewhere here, and has PyTorch's
epsilon of 1e-5.

The longest sequence is a number of the configuration there, to which sequences are padded; here it
is two tokens for each impression of the longest window. (The longest of a batch, by which their
later kernels divide, would let a score depend on the requests beside it.) A LayerNorm follows the
division, so a constant matters by its epsilon alone: what few keys add up to fades.

Two more differences are the ablation's own, in both: the paper's relative attention bias is left to
the model's positions, which rotate Q and K, and LayerNorms learn gain and bias. The one projection
is kept as two matrices, U with Q and K with V: a last layer needs K and V of its context only.

Matched cost: a layer's linear part is 5 D^2 multiply-adds a token, a transformer block's with
mlp_ratio 4 is 12 D^2, attention costs both the same. So one block costs what 2.4 HSTU layers do on
histories far shorter than D, and ever closer to one on longer ones;
`model.accounting.hstu_layers_per_block` says it for a length.

Shape suffixes: T tokens, packed; D width of a token; H heads; C head_dim.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.shared_context_attention import Tokens
from model.config import FeedSRConfig
from model.layers.layer import Layer
from model.layers.pointwise_attention import attention_by, pointwise_attention
from model.layers.residual import make_residual
from model.layers.rope import Rotate

PUBLISHED_EPSILON = 1e-6
"""Of the published LayerNorms."""


class HSTU(Layer):
    """One layer; its residual and the place of its LayerNorm as configured.

    Args:
        config: its shape, and by `block` whether it is the published one.
        longest: tokens of the longest context, by which the published one divides.
    """

    def __init__(self, config: FeedSRConfig, longest: int) -> None:
        attend, epsilon = attention_by("silu"), 1e-5
        if config.block == "hstu_published":
            attend = partial(
                pointwise_attention, activation="silu", softmax_scale=1.0, divisor=longest
            )
            epsilon = PUBLISHED_EPSILON
        super().__init__(config, attend)
        width = config.width
        self.heads = config.heads
        self.norm = nn.LayerNorm(width, epsilon)
        self.gate_query = nn.Linear(width, 2 * width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.attended_norm = nn.LayerNorm(width, epsilon)
        self.out = nn.Linear(width, width)
        self.add = make_residual(config)
        self.dropout = nn.Dropout(config.dropout)

    def project(
        self, x_TD: Tensor, rotate: Rotate, *, queries: bool = True
    ) -> tuple[Tokens, Tensor | None]:
        """Q, K and V heads `[T, H, C]`, and U `[T, D]`; K and V alone without queries."""
        x = self._before(self.norm, x_TD)
        key, value = self._activated(self.key_value, x)
        gate = query = None
        if queries:
            gate, query = self._activated(self.gate_query, x)
            query = rotate(self._split(query))
        return Tokens(query, rotate(self._split(key)), self._split(value)), gate

    def finish(self, x_TD: Tensor, seen_THC: Tensor, gate_TD: Tensor | None) -> Tensor:
        """The attended values, normalised and gated, to the stream."""
        assert gate_TD is not None
        branch = self.out(self.attended_norm(seen_THC.flatten(1)) * gate_TD)
        return self._after(self.norm, self.add(x_TD, self.dropout(branch)))

    def key_value_layer(self) -> nn.Linear:
        """Keys and values alone."""
        return self.key_value

    def _activated(self, linear: nn.Linear, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        first, second = F.silu(linear(x_TD), inplace=not torch.is_grad_enabled()).chunk(2, -1)
        return first, second

    def _split(self, x_TD: Tensor) -> Tensor:
        return x_TD.unflatten(-1, (self.heads, -1))
