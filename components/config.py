# SPDX-License-Identifier: Apache-2.0
"""The configuration of a run: one frozen value, validated at the edge, that each step takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from feature_repo.spec import Freshness, Spec
from feature_repo.specs import spec_by_name
from model import DCNv2Config, FeedSRConfig, RankerConfig
from model.config import first_fault


class Config(BaseModel):
    """Frozen; an unknown name is an error, and so is a number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TrainConfig(Config):
    """How a ranker is trained (design, section 1: training).

    Attributes:
        global_batch: sequences an optimiser step, over all ranks and accumulation steps.
        micro_batch: sequences in one forward of one rank.
        position_half_life: loss weight halves every so many impressions back from the newest; None
            is the sequence's own length.
        age_half_life_days: loss weight halves with the impression's age.
        propensity: divide the labels of actions that only an examined post gets by the propensity
            of their feed position, at least .1 (`components.training.propensity`),
            so that scores say relevance: the probability at position 0, wherever a post was shown.
            The values by position, from an experiment; or "estimated" (true means it), each
            position's click rate over that of position 0. Estimated is for a log whose order was
            random alone: where the feed was ranked, the rate is relevance as well
            (docs/results.md).
        session_shuffle: shuffle the order inside a session (see docs/known-time.md).
        auxiliary_weight: weight of the loss of untimed impressions on the sequence output alone.
        teachers: rankers of the next seeds that are trained first, for labels
            (`components.training.teachers`): so many trainings more, and their forwards. Not
            written at 0, so that what was made before keeps its fingerprint.
        teacher_weight: of what the teachers say in a label; not written at its default either.
        checkpoint_steps: optimiser steps between checkpoints.
    """

    epochs: int = Field(1, ge=1)
    global_batch: int = Field(1024, ge=1)
    micro_batch: int = Field(64, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    gradient_clip: float = Field(1.0, gt=0)
    position_half_life: int | None = Field(None, ge=1)
    age_half_life_days: float = Field(60.0, gt=0)
    propensity: Literal[False, "estimated"] | tuple[float, ...] = False
    session_shuffle: bool = True
    auxiliary_weight: float = Field(1.0, ge=0)
    teachers: int = Field(0, ge=0, le=16, exclude_if=lambda count: count == 0)
    teacher_weight: float = Field(0.5, gt=0, le=1, exclude_if=lambda weight: weight == 0.5)
    checkpoint_steps: int = Field(50, ge=1)
    seed: int = Field(0, ge=0, lt=2**31)

    @field_validator("propensity", mode="before")
    @classmethod
    def _known_propensity(cls, value: Any) -> Any:
        """Takes true for "estimated", and refuses a propensity that is no probability."""
        if isinstance(value, bool) or value == "estimated":
            return "estimated" if value else False
        numbers = value if isinstance(value, list | tuple) else []
        if numbers and all(isinstance(p, int | float) and 0 < p <= 1 for p in numbers):
            return value
        raise ValueError(
            f'{value!r} is no propensity; want false, "estimated", or for each feed position a '
            "probability above 0 and at most 1"
        )


class GateConfig(Config):
    """What a candidate model must hold to be promoted; each threshold is checked on the next day.

    Attributes:
        task: the task the AUC thresholds are on.
        max_auc_drop: how far the AUC may fall below the model in production.
        min_auc: the least AUC at all.
        max_calibration_error: the largest expected calibration error of any task with enough
            positives.
        min_over_baseline: the least AUC difference to the DCNv2 baseline.
        min_positives: tasks with fewer positives are reported and not judged.
    """

    task: str = "long_dwell"
    max_auc_drop: float = Field(0.005, ge=0, le=1)
    min_auc: float = Field(0.55, ge=0, le=1)
    max_calibration_error: float = Field(0.10, ge=0, le=1)
    min_over_baseline: float = Field(-0.01, ge=-1, le=1)
    min_positives: int = Field(50, ge=1)


class DailyConfig(Config):
    """One daily loop.

    Attributes:
        buckets: into how many shares a day's state is dealt by its keys: a step holds one of them
            at a time. Another number than a root was made with rebuilds its state.
        engine: what deals the shares out: this process, or Spark at FEEDSR_SPARK_MASTER. The bytes
            are the same; not written where it is this process.
        offline_store: what Feast joins features in time with; not written where it is duckdb.
    """

    spec_name: str
    freshness: Freshness = "day"
    feed_sr: FeedSRConfig
    dcnv2: DCNv2Config
    cold: TrainConfig = TrainConfig()
    warm: TrainConfig = TrainConfig()
    gate: GateConfig = GateConfig()
    online_store: Literal["sqlite", "redis", "redis_cluster"] = "sqlite"
    offline_store: Literal["duckdb", "spark"] = Field(
        "duckdb", exclude_if=lambda name: name == "duckdb"
    )
    buckets: int = Field(16, ge=1, le=4096)
    engine: Literal["local", "spark"] = Field("local", exclude_if=lambda name: name == "local")
    parity_requests: int = Field(16, ge=1)
    max_candidates: int = Field(512, ge=1)
    serving_dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def spec(self) -> Spec:
        """The feature spec this loop runs on."""
        return spec_by_name(self.spec_name)

    @property
    def rankers(self) -> dict[str, RankerConfig]:
        """The loop's rankers by name: the one that is to be served, and its baseline."""
        return {own.ranker: own for own in (self.feed_sr, self.dcnv2)}

    @model_validator(mode="after")
    def _fits_the_spec(self) -> DailyConfig:
        """Refuses a spec that is not there and a gate on a task that the spec does not have."""
        tasks = self.spec.task_names
        if self.gate.task not in tasks:
            raise ValueError(f"gate.task: there is no {self.gate.task!r}; have {', '.join(tasks)}")
        return self


def config_name(name: str) -> str:
    """A configuration's name as any folder understands it: a JSON file by its absolute path."""
    return str(Path(name).resolve()) if Path(name).is_file() else name


def load_config(name: str) -> DailyConfig:
    """A shipped configuration by name, or one from a JSON file; ValueError says what is wrong."""
    if name in PROFILES:
        return PROFILES[name]
    path = Path(name)
    if not path.is_file():
        raise ValueError(
            f"there is no configuration {name!r}: want one of {', '.join(PROFILES)} or a JSON file"
        )
    try:
        return DailyConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: {first_fault(error)}") from error


PROFILES = {
    "demo": DailyConfig(
        spec_name="simulator",
        buckets=1,
        feed_sr=FeedSRConfig(width=64, layers=2, heads=2),
        dcnv2=DCNv2Config(),
        # A few hundred members: a larger batch leaves too few steps to learn anything.
        cold=TrainConfig(global_batch=8, micro_batch=8, epochs=5),
        warm=TrainConfig(global_batch=8, micro_batch=8, learning_rate=5e-4),
    ),
    "kuairand": DailyConfig(
        spec_name="kuairand",
        buckets=4,
        feed_sr=FeedSRConfig(width=64, layers=2, heads=2),
        dcnv2=DCNv2Config(),
        cold=TrainConfig(global_batch=64, micro_batch=64, epochs=2, auxiliary_weight=2.0),
        warm=TrainConfig(global_batch=64, micro_batch=64, learning_rate=3e-4),
    ),
}
"""Declared configurations by name."""
