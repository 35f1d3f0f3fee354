# SPDX-License-Identifier: Apache-2.0
"""The ablation study as values: each experiment is one change from the default configuration.

A list to read and to add to; it runs nothing. Where the paper (arXiv 2602.12354) has the same
experiment, `paper` is its relative AUC of long dwell against its default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

LogKind = Literal["kuairand", "simulator"]
BOTH: tuple[LogKind, ...] = ("kuairand", "simulator")
REFERENCE = "default"
NEVER = 10**6
"""A half-life that is as good as none."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One row of the table.

    Attributes:
        part: what is varied.
        name: the variation.
        changes: values of the configuration, nested as in its JSON.
        base: values that the row's reference has as well, where it is not the default.
        logs: the logs on which it says something.
        knows_propensities: whether it is told those that the simulated log at hand was made with.
        paper: percent, as the paper reports it; None where it has no such row.
    """

    part: str
    name: str
    changes: Mapping[str, Any]
    base: Mapping[str, Any] = field(default_factory=dict)
    logs: tuple[LogKind, ...] = BOTH
    knows_propensities: bool = False
    paper: float | None = None

    @property
    def row(self) -> str:
        """The row's name in the results."""
        return f"{self.part}: {self.name}"


def model(**changes: Any) -> dict[str, Any]:
    """Changes of Feed-SR's configuration."""
    return {"feed_sr": changes}


def training(**changes: Any) -> dict[str, Any]:
    """Changes of how it is trained from a cold start."""
    return {"cold": changes}


def head(name: str) -> dict[str, Any]:
    """Another head."""
    return model(head={"name": name})


POSITIONS = (
    Experiment(part="positions", name="learned", changes=model(positions="learned"), paper=-0.19),
    Experiment(part="positions", name="none", changes=model(positions="none"), paper=-0.91),
    Experiment(part="positions", name="RoPE by elapsed time", changes=model(positions="time_rope")),
)
TOKENS = (Experiment(part="action token", name="alone", changes=model(action_token="alone")),)
ATTENTION = (
    Experiment(part="attention", name="SiLU", changes=model(attention="silu"), paper=-0.09),
    Experiment(part="attention", name="ReLU", changes=model(attention="relu"), paper=-0.25),
    Experiment(part="attention", name="sigmoid", changes=model(attention="sigmoid"), paper=-0.15),
    Experiment(part="attention", name="self-gated", changes=model(attention_gate=True)),
)
BLOCK = (
    Experiment(
        part="block",
        name="HSTU as published, equal FLOPs",
        changes=model(block="hstu_published", layers=4),
        paper=-0.23,
    ),
    Experiment(
        part="block",
        name="HSTU, mean over the keys, equal FLOPs",
        changes=model(block="hstu", layers=4),
    ),
)
RESIDUAL = (
    Experiment(part="residual", name="plain", changes=model(residual="plain")),
    Experiment(part="residual", name="ReZero", changes=model(residual="rezero")),
    Experiment(part="residual", name="LayerScale", changes=model(residual="layer_scale")),
    Experiment(part="residual", name="dense gating", changes=model(residual="gated")),
    Experiment(part="norm", name="after the addition", changes=model(norm="post")),
)
HEAD = (
    Experiment(part="head", name="linear", changes=head("linear"), paper=-1.20),
    Experiment(part="head", name="MLP", changes=head("mlp"), paper=-0.13),
    Experiment(part="head", name="stacked DCNv2", changes=head("stacked_dcn"), paper=-0.27),
    Experiment(part="head", name="MMoE", changes=head("mmoe"), paper=-0.16),
)

CALIBRATION = (
    Experiment(part="calibration", name="isotonic layer", changes=model(calibration_buckets=16)),
)

POPULARITY = ("post_popularity", "actor_popularity")
CONTEXT = (*POPULARITY, "member_activity", "affinity", "member_profile", "age")
FUSION = (
    Experiment(part="fusion", name="a third early", changes={"early": POPULARITY}),
    Experiment(part="fusion", name="all early", changes={"early": CONTEXT}),
)

# What a model may learn from its own session that serving would not know: all three are ranked with
# what is older than 30 minutes, whatever they were trained with.
SERVED = {"freshness": "30m", "train_freshness": "immediate"}
SESSION = (
    Experiment(
        part="session", name="in order", base=SERVED, changes=training(session_shuffle=False)
    ),
    Experiment(part="session", name="masked", base=SERVED, changes={"train_freshness": "30m"}),
)
WEIGHTS = (
    Experiment(part="weights", name="positions alike", changes=training(position_half_life=NEVER)),
    Experiment(part="weights", name="ages alike", changes=training(age_half_life_days=NEVER)),
    Experiment(
        part="weights",
        name="no logit offsets",
        changes=model(offset_positions=0),
        logs=("simulator",),
    ),
    Experiment(
        part="weights",
        name="no auxiliary loss",
        changes=training(auxiliary_weight=0.0),
        logs=("kuairand",),
    ),
)
PROPENSITY = (
    Experiment(
        part="inverse propensity",
        name="estimated",
        changes=training(propensity="estimated"),
        logs=("simulator",),
    ),
    Experiment(
        part="inverse propensity",
        name="as planted",
        changes={},
        knows_propensities=True,
        logs=("simulator",),
    ),
    Experiment(
        part="inverse propensity",
        name="as planted, no logit offsets",
        changes=model(offset_positions=0),
        knows_propensities=True,
        logs=("simulator",),
    ),
)
TEACHERS = (Experiment(part="teachers", name="three", changes=training(teachers=3)),)
FEATURES = (
    Experiment(part="features without", name="ids", changes={"without": ["ids"]}),
    Experiment(
        part="features without",
        name="popularity",
        changes={"without": POPULARITY},
        paper=-2.5,
    ),
    Experiment(
        part="features without", name="affinity", changes={"without": ["affinity"]}, paper=-0.3
    ),
    Experiment(part="features without", name="activity", changes={"without": ["member_activity"]}),
    Experiment(part="features without", name="profile", changes={"without": ["member_profile"]}),
)
# KuaiRand knows 191 impressions of a member at most.
HISTORY = tuple(
    Experiment(
        part="history",
        name=f"{length} impressions",
        changes={"max_impressions": length},
        logs=BOTH if length < 191 else ("simulator",),
    )
    for length in (10, 30, 100, 300)
)

ABLATION = (
    *POSITIONS,
    *TOKENS,
    *ATTENTION,
    *BLOCK,
    *RESIDUAL,
    *HEAD,
    *CALIBRATION,
    *FUSION,
    *SESSION,
    *WEIGHTS,
    *PROPENSITY,
    *TEACHERS,
    *FEATURES,
    *HISTORY,
)
"""The study, in the order in which it is run and shown."""
PARTS = tuple(dict.fromkeys(e.part for e in ABLATION))


def with_references(experiments: Sequence[Experiment]) -> list[Experiment]:
    """The experiments with each one's reference before its first."""
    rows: dict[str, Experiment] = {}
    for experiment in experiments:
        reference = reference_of(experiment)
        rows.setdefault(reference.row, reference)
        rows[experiment.row] = experiment
    return list(rows.values())


def reference_of(experiment: Experiment) -> Experiment:
    """What a row is compared with: the default, or the default of a part with a base of its own."""
    part = experiment.part if experiment.base else "all"
    return Experiment(part=part, name=REFERENCE, changes={}, base=experiment.base)
