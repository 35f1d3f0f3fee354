# SPDX-License-Identifier: Apache-2.0
"""What a ranker is built from: frozen values that survive a round trip through JSON.

Kept apart from the modules they configure, so that reading a configuration costs pydantic and not
torch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

HeadName = Literal["linear", "mlp", "stacked_dcn", "parallel_dcn", "mmoe"]
PositionsName = Literal["rope", "learned", "none", "time_rope"]
AttentionName = Literal["softmax", "silu", "relu", "sigmoid"]
BlockName = Literal["transformer", "hstu", "hstu_published"]
ResidualName = Literal["rescale", "plain", "rezero", "layer_scale", "gated"]
NormName = Literal["pre", "post"]
ActionTokenName = Literal["with_post", "alone"]


def first_fault(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, as "where: what"."""
    fault = error.errors()[0]
    where = ".".join(map(str, fault["loc"]))
    return ": ".join(filter(None, (where, fault["msg"].removeprefix("Value error, "))))


class ModelConfig(BaseModel):
    """Frozen, keyword only, and an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RankerConfig(ModelConfig):
    """A ranker's shape; `ranker` is its name in `model.build.RANKERS`."""

    ranker: str


class HeadConfig(ModelConfig):
    """A multi-task head over the fused features: a body and a tower for each group of tasks.

    Attributes:
        name: "linear", "mlp", "stacked_dcn" (cross network, then MLP), "parallel_dcn" (cross
            network beside MLP) or "mmoe" (experts shared by the groups, mixed by a gate for each
            group).
        width: hidden width of the MLP, and of each expert.
        hidden: hidden layers of the MLP, and of each expert.
        cross: layers of the cross network.
        rank: rank of a cross layer's weight, as DCN-V2's low-rank form; at most the width of the
            fused features, whatever is said.
        experts: experts of "mmoe".
        gate_dropout: dropout on the gates' probabilities of "mmoe".
        dropout: dropout on the hidden layers.
    """

    name: HeadName = "parallel_dcn"
    width: int = Field(128, ge=1)
    hidden: int = Field(2, ge=1)
    cross: int = Field(2, ge=1)
    rank: int = Field(32, ge=1)
    experts: int = Field(4, ge=1)
    gate_dropout: float = Field(0.1, ge=0, lt=1)
    dropout: float = Field(0.0, ge=0, lt=1)


class FeedSRConfig(RankerConfig):
    """Feed-SR's shape (arXiv 2602.12354), and the parts that an ablation study exchanges.

    The defaults are the paper's choices, but that an action token carries its post as well;
    model/README.md names the file of each part.

    Attributes:
        width: d, the width of a token; `width / heads` is the head's dimension, which RoPE wants
            even.
        mlp: the block's MLP; "swiglu" uses two thirds of the hidden width, for the same number of
            weights.
        mlp_ratio: hidden width of the block's MLP in units of `width`.
        residual_scale: the learned scale of every residual branch of "rescale" starts here.
        rope_base: base of positions "rope": the pair i of a head's channels turns by
            `rope_base ** (-2 i / head_dim)` radians a token position.
        embedding_dropout: dropout on the embeddings of hashed ids.
        dropout: dropout on each residual branch.
        offset_positions: feed positions that have learned logit offsets.
        positions: how order reaches the tokens: "rope" and "time_rope" rotate queries and keys, by
            index or by the time served; "learned" adds an embedding; "none" leaves the order to
            what each token sees.
        action_token: what an action token carries: its post's token as well, or its actions alone.
        attention: what becomes of the scores: "softmax", or an activation of each, divided by how
            many keys are seen.
        attention_gate: each head's output times a sigmoid of its token.
        block: "transformer" (attention, then MLP), or an HSTU layer, whose attention is SiLU,
            gated, and without an MLP: `attention`, `mlp` and `mlp_ratio` say nothing of it.
            "hstu_published" is the published one, "hstu" departs from it in three ways that
            `model.layers.hstu` names.
        residual: how a branch joins the stream.
        norm: LayerNorm before each branch, or after each addition.
        calibration_buckets: buckets of an isotonic calibration layer on the head's logits
            (`model.isotonic`); 0 is no such layer.
    """

    ranker: Literal["feed_sr"] = "feed_sr"
    width: int = Field(64, ge=2)
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    mlp: Literal["gelu", "swiglu"] = "gelu"
    mlp_ratio: float = Field(4.0, gt=0)
    residual_scale: float = 1.0
    rope_base: float = Field(10_000.0, gt=1)
    embedding_dropout: float = Field(0.2, ge=0, lt=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    head: HeadConfig = HeadConfig()
    offset_positions: int = Field(60, ge=0)
    positions: PositionsName = "rope"
    action_token: ActionTokenName = "with_post"
    attention: AttentionName = "softmax"
    attention_gate: bool = False
    block: BlockName = "transformer"
    residual: ResidualName = "rescale"
    norm: NormName = "pre"
    calibration_buckets: int = Field(0, ge=0, le=1024)

    @model_validator(mode="after")
    def _check_block(self) -> FeedSRConfig:
        own = self.attention in ("relu", "sigmoid") or self.attention_gate
        if self.block != "transformer" and own:
            raise ValueError(
                f"block {self.block} with attention {self.attention!r} and attention_gate "
                f"{self.attention_gate}: it has a SiLU attention and a gate of its own; leave both "
                "at their defaults"
            )
        return self

    @model_validator(mode="after")
    def _check_heads(self) -> FeedSRConfig:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width} with {self.heads} heads: want a multiple of twice the heads"
            )
        return self

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads


class DCNv2Config(RankerConfig):
    """The two-tower DCN-V2 baseline's shape: one cross network and MLP for each group of tasks.

    Attributes:
        head: how each tower is built; `head.name` says whether cross network and MLP are stacked
            or parallel.
        embedding_dropout: dropout on the embeddings of hashed ids.
        offset_positions: feed positions that have learned logit offsets.
    """

    ranker: Literal["dcnv2"] = "dcnv2"
    head: HeadConfig = HeadConfig(width=256, hidden=2, cross=2, rank=64)
    embedding_dropout: float = Field(0.2, ge=0, lt=1)
    offset_positions: int = Field(60, ge=0)
