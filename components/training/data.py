# SPDX-License-Identifier: Apache-2.0
"""From shards to what a ranker takes: the spec's columns, labels, and the weight of each target.

The loader beneath knows no feature and the ranker above knows no shard; this is where the spec
joins them. It neither trains nor evaluates.

Shape suffixes: M impressions, S sequences, R targets, A auxiliary rows, K tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from components.config import TrainConfig
from components.training.propensity import labels_of_examined, propensity_table
from feature_repo.kinds import Role
from feature_repo.spec import DAY_MS, Freshness, Spec
from kernels.loader import (
    AUXILIARY,
    TARGET,
    Decay,
    Loader,
    LoaderConfig,
    Packed,
    ShardFormat,
    loss_rows,
    weigh,
)
from kernels.loader.checksums import CHECKSUMS
from model.batch import Impressions, TrainBatch

Floats = npt.NDArray[np.float32]


def shard_format(spec: Spec, freshness: Freshness | None = None) -> ShardFormat:
    """What training and evaluation read from a shard built with `spec`.

    With `freshness`, shards that were built for another freshness are refused.
    """
    metadata = {"spec_hash": spec.hash}
    if freshness is not None:
        metadata["freshness"] = freshness
    names = ["event_time", "session_id", "position"]
    names += [f.name for f in (*spec.with_role("sequence"), *spec.with_role("action"))]
    columns = {name: spec.history_schema.field(name).type for name in names}
    return ShardFormat(columns=columns, context_width=spec.context_width, metadata=metadata)


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a folder in name order; ValueError if there is none."""
    paths = sorted(Path(folder).glob("*.arrow"))
    if not paths and (Path(folder) / CHECKSUMS).is_file():
        raise ValueError(
            f"there are no sequences in {folder}: no member had an impression in its days; "
            "choose other days"
        )
    if not paths:
        raise ValueError(f"there are no shards in {folder}; build the sequences first")
    return paths


def open_loader(
    folder: Path, spec: Spec, config: LoaderConfig, freshness: Freshness | None = None
) -> Loader:
    """A loader over a folder of shards.

    Raises:
        ValueError: no shards, a broken one, or one of another spec or freshness.
    """
    return Loader(shard_paths(folder), shard_format(spec, freshness), config)


def window_limit(spec: Spec) -> int:
    """The most impressions a training sequence keeps: two full windows, history and targets."""
    return 2 * (spec.max_impressions + spec.block)


def evaluation_batches(
    folder: Path, spec: Spec, sequences: int = 64
) -> Iterator[tuple[TrainBatch, Packed]]:
    """Every sequence of a folder in stored order, unshuffled, with weights of one.

    The pack beside each batch has what a segment needs: `keys["member_id"]`, columns, `loss`.
    """
    config = LoaderConfig(batch=sequences, shuffle=False)
    for packed in open_loader(folder, spec, config).epoch():
        yield to_train_batch(packed, spec), packed


def to_train_batch(
    packed: Packed,
    spec: Spec,
    weight_R: Floats | None = None,
    propensity: tuple[float, ...] = (),
) -> TrainBatch:
    """The ranker's batch of a pack, sharing its memory; `weight_R` is one everywhere by default.

    Labels are what was done, or that over the propensity of its place (`labels_of_examined`).
    """
    targets = loss_rows(packed, TARGET, spec.task_names, "position")
    auxiliary = loss_rows(packed, AUXILIARY, spec.task_names, "position")
    if weight_R is None:
        weight_R = np.ones(len(targets.index_R), np.float32)
    return TrainBatch(
        impressions=Impressions(
            features=_tensors(packed, spec, "sequence"),
            actions=_tensors(packed, spec, "action"),
            known_M=torch.from_numpy(packed.columns["known"]),
            cu_seqlens=torch.from_numpy(packed.cu_seqlens),
            time_M=torch.from_numpy(packed.columns["event_time"]),
        ),
        target_R=torch.from_numpy(targets.index_R),
        context_RC=torch.from_numpy(packed.context_RC),
        labels_RK=torch.from_numpy(labels_of_examined(targets, spec, propensity)),
        weight_R=torch.from_numpy(weight_R),
        position_R=torch.from_numpy(targets.slot_R),
        auxiliary_A=torch.from_numpy(auxiliary.index_R),
        auxiliary_labels_AK=torch.from_numpy(labels_of_examined(auxiliary, spec, propensity)),
    )


def _tensors(packed: Packed, spec: Spec, role: Role) -> dict[str, torch.Tensor]:
    return {f.name: torch.from_numpy(packed.columns[f.name]) for f in spec.with_role(role)}


@dataclass(frozen=True, kw_only=True)
class Weighting:
    """The loss weight of a target: newer and more recent counts more; and what corrects its labels.

    Attributes:
        as_of_ms: age is counted back from here.
        propensity: of each feed position (`labels_of_examined`); empty is no correction.
        scale: what makes the weights average one over the shards they were estimated on.
    """

    as_of_ms: int
    age_half_life_days: float
    position_half_life: int | None
    propensity: tuple[float, ...] = ()
    scale: float = 1.0

    def weigh(self, packed: Packed) -> Floats:
        """float32 `[R]`, the weight of each target of the pack."""
        decay = Decay(
            time="event_time",
            as_of=self.as_of_ms,
            half_life=self.age_half_life_days * DAY_MS,
            places=self.position_half_life,
            scale=self.scale,
        )
        return weigh(packed, decay)


def estimate_weighting(
    packs: list[Packed], spec: Spec, config: TrainConfig, as_of_ms: int
) -> Weighting:
    """The weighting of a training set, from packs that stand for it."""
    plain = Weighting(
        as_of_ms=as_of_ms,
        age_half_life_days=config.age_half_life_days,
        position_half_life=config.position_half_life,
        propensity=propensity_table(packs, spec, config),
    )
    weights = np.concatenate([np.zeros(0, np.float32), *(plain.weigh(pack) for pack in packs)])
    mean = float(weights.mean(dtype=np.float64)) if len(weights) else 1.0
    return replace(plain, scale=1.0 / mean)
