# SPDX-License-Identifier: Apache-2.0
"""The rankers of the comparison as values: what each starts from, and what is tuned of it.

Every contender is tuned with the same number of trials over what its own users would tune, the
first trial being the start itself, or takes over what another one's tuning chose. A list to read
and to add to; it runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from components.studies.learners import TreeLearner
from components.studies.lightgbm.ranker import LightGBMConfig

OURS = "feed_sr"
"""What the others are held against."""


@dataclass(frozen=True)
class Between:
    """Any number between two, by their logarithms."""

    low: float
    high: float


Choices = tuple[Any, ...] | Between
Space = Mapping[str, Choices]
"""What is tuned: values by dotted name, "ranker.head.width" or "cold.epochs"."""

TRAINING: Space = {
    "cold.learning_rate": Between(4e-4, 3e-3),
    "cold.epochs": (1, 2, 3),
    "cold.weight_decay": (0.01, 0.1),
}
EMBEDDING: Space = {"ranker.embedding_dropout": (0.0, 0.2, 0.4)}
HEAD: Space = {
    "ranker.head.name": ("mlp", "parallel_dcn", "mmoe"),
    "ranker.head.width": (128, 256, 512),
    "ranker.head.dropout": (0.0, 0.1, 0.2),
}
BLOCKS: Space = {
    "ranker.width": (64, 128),
    "ranker.layers": (1, 2, 3),
    "ranker.dropout": (0.0, 0.1),
    "cold.auxiliary_weight": (1.0, 2.0, 4.0),
}


APPENDED = (
    "After M-FALCON, and not it: a candidate does not see itself, and the history is one token an "
    "impression."
)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One ranker.

    Attributes:
        name: of the row.
        title: how the table names it.
        note: what a reader of the title must know besides, said beneath the table; "" is nothing.
        start: what tuning starts from; None is what a backtest would train.
        space: what is tuned.
        base: the contender whose chosen configuration this one is, with `changes`; "" is none, and
            it is tuned itself.
    """

    name: str
    title: str
    note: str = ""
    space: Space = field(default_factory=dict)
    start: TreeLearner | None = None
    base: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)


CONTENDERS = (
    Contender(
        name="feed_sr",
        title="**Feed-SR**",
        space={**TRAINING, **EMBEDDING, **HEAD, **BLOCKS},
    ),
    Contender(
        name="feed_sr_taught",
        title="Feed-SR, three teachers",
        base="feed_sr",
        changes={"cold.teachers": 3},
    ),
    Contender(
        name="dcnv2",
        title="DCNv2, two towers",
        space={
            **TRAINING,
            **EMBEDDING,
            "ranker.head.name": ("stacked_dcn", "parallel_dcn"),
            "ranker.head.width": (128, 256, 512),
            "ranker.head.cross": (1, 2, 3),
            "ranker.head.dropout": (0.0, 0.1, 0.2),
        },
    ),
    Contender(
        name="dcnv2_taught",
        title="DCNv2, three teachers",
        base="dcnv2",
        changes={"cold.teachers": 3},
    ),
    Contender(
        name="lirank",
        title="LiRank (Residual DCN, dense gating, isotonic layer)",
        space={
            **TRAINING,
            **EMBEDDING,
            "ranker.width": (128, 256, 512),
            "ranker.cross": (1, 2, 3),
            "ranker.dropout": (0.0, 0.1, 0.2),
            "ranker.temperature": (0.5, 1.0, 2.0),
        },
    ),
    Contender(
        name="transact",
        title="TransAct (history encoder in a pointwise ranker)",
        space={
            **TRAINING,
            **EMBEDDING,
            "ranker.history": (50, 100),
            "ranker.layers": (1, 2),
            "ranker.outputs": (0, 10),
            "ranker.dropout": (0.0, 0.1),
        },
    ),
    Contender(
        name="appended",
        title="Appended candidates",
        note=APPENDED,
        space={**TRAINING, **EMBEDDING, **HEAD, **BLOCKS},
    ),
    Contender(
        name="appended_taught",
        title="Appended candidates, three teachers",
        note=APPENDED,
        base="appended",
        changes={"cold.teachers": 3},
    ),
    Contender(
        name="ligr",
        title="LiGR (gated normalisation, set-wise attention)",
        space={**TRAINING, **EMBEDDING, **HEAD, **BLOCKS},
    ),
    Contender(
        name="lightgbm",
        title="LightGBM on counters",
        start=TreeLearner(LightGBMConfig()),
        space={
            "ranker.learning_rate": Between(0.02, 0.1),
            "ranker.num_leaves": (31, 63, 127),
            "ranker.min_data_in_leaf": (20, 50, 200),
            "ranker.lambda_l2": (0.0, 1.0, 10.0),
            "ranker.feature_fraction": (0.4, 0.6, 0.8),
        },
    ),
)
"""The comparison, in the order of the table."""
