# SPDX-License-Identifier: Apache-2.0
"""What the rivals are built from: frozen values that survive a round trip through JSON.

Kept apart from the modules they configure, so that reading a configuration costs pydantic and not
torch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from model.config import HeadConfig, RankerConfig


class LiRankConfig(RankerConfig):
    """LiRank's shape (arXiv 2402.06859): a body of these for each group of tasks.

    Attributes:
        width: hidden width of the gated layers.
        hidden: gated layers.
        cross: residual cross layers.
        rank: rank of a cross layer's weight.
        fields: tokens that the low-rank features are cut into for the attention between them;
            divides `rank`.
        temperature: of that attention; towards zero each field attends to one, at high values to
            all alike.
        dropout: dropout on the gated layers.
        calibration_buckets: buckets of the isotonic calibration layer.
        calibration_range: the buckets lie between minus and plus this, in log-odds.
        embedding_dropout: dropout on the embeddings of hashed ids.
        offset_positions: feed positions that have learned logit offsets.
    """

    ranker: Literal["lirank"] = "lirank"
    width: int = Field(256, ge=1)
    hidden: int = Field(2, ge=1)
    cross: int = Field(2, ge=1)
    rank: int = Field(64, ge=1)
    fields: int = Field(8, ge=1)
    temperature: float = Field(1.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    calibration_buckets: int = Field(16, ge=1)
    calibration_range: float = Field(8.0, gt=0)
    embedding_dropout: float = Field(0.2, ge=0, lt=1)
    offset_positions: int = Field(60, ge=0)

    @model_validator(mode="after")
    def _check_fields(self) -> LiRankConfig:
        if self.rank % self.fields:
            raise ValueError(f"rank {self.rank} with {self.fields} fields: want a multiple of them")
        return self


class TransActConfig(RankerConfig):
    """A TransAct-style ranker's shape (arXiv 2306.00248).

    Attributes:
        history: the newest impressions of a member that are looked at.
        width: width of a token: an impression fused with the candidate.
        layers: layers of the encoder.
        heads: attention heads; divides `width`.
        mlp_ratio: hidden width of the encoder's MLP in units of `width`.
        outputs: outputs at so many of the newest impressions are kept, beside the maximum over all.
        chunk: targets or candidates encoded at once; bounds memory to `chunk * history` tokens.
        embedding_dropout: dropout on the embeddings of hashed ids.
        dropout: dropout on each residual branch of the encoder.
        head: the multi-task head over history, candidate and context.
        offset_positions: feed positions that have learned logit offsets.
    """

    ranker: Literal["transact"] = "transact"
    history: int = Field(100, ge=1)
    width: int = Field(64, ge=1)
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    mlp_ratio: float = Field(0.5, gt=0)
    outputs: int = Field(10, ge=0)
    chunk: int = Field(256, ge=1)
    embedding_dropout: float = Field(0.2, ge=0, lt=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    head: HeadConfig = HeadConfig(width=256, hidden=2, cross=2, rank=64)
    offset_positions: int = Field(60, ge=0)

    @model_validator(mode="after")
    def _check_sizes(self) -> TransActConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} with {self.heads} heads: want a multiple of them")
        if self.outputs > self.history:
            raise ValueError(f"outputs {self.outputs} of a history of {self.history}: want no more")
        return self


class HistoryConfig(RankerConfig):
    """A transformer over one token an impression; see `model.rivals.history`.

    Attributes:
        width: d, the width of a token; a multiple of twice the heads, as RoPE wants it.
        mlp: the block's MLP; "swiglu" uses two thirds of the hidden width.
        mlp_ratio: hidden width of the block's MLP in units of `width`.
        rope_base: RoPE's base: the pair i of a head's channels turns by
            `rope_base ** (-2 i / head_dim)` radians an impression.
        embedding_dropout: dropout on the embeddings of hashed ids.
        dropout: dropout on each residual branch.
        head: the multi-task head over the transformer's output and the context features.
        offset_positions: feed positions that have learned logit offsets.
    """

    width: int = Field(64, ge=2)
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    mlp: Literal["gelu", "swiglu"] = "gelu"
    mlp_ratio: float = Field(4.0, gt=0)
    rope_base: float = Field(10_000.0, gt=1)
    embedding_dropout: float = Field(0.2, ge=0, lt=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    head: HeadConfig = HeadConfig()
    offset_positions: int = Field(60, ge=0)

    @model_validator(mode="after")
    def _check_heads(self) -> HistoryConfig:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width} with {self.heads} heads: want a multiple of twice the heads"
            )
        return self


class AppendedConfig(HistoryConfig):
    """The shape of the ranker whose candidates are appended to the history (arXiv 2412.06924)."""

    ranker: Literal["appended"] = "appended"


class LiGRConfig(HistoryConfig):
    """LiGR's shape (arXiv 2502.03417).

    Attributes:
        set_layers: layers in which the candidates of a request attend to each other.
    """

    ranker: Literal["ligr"] = "ligr"
    set_layers: int = Field(1, ge=1)
