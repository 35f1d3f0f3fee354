# SPDX-License-Identifier: Apache-2.0
"""One training of one ranker: what it is made from, and the record of it that its model keeps.

The same run gives the same weights; `components.training.trainer` does the steps. It knows its
teachers as folders: who trains them is the caller's matter.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import TrainConfig
from components.layout.files import fingerprint
from components.training.checkpoints import clear_checkpoints
from components.training.data import estimate_weighting, open_loader, window_limit
from components.training.distributed import Group, process_group
from components.training.start import cold_model, sample, warm_model
from components.training.teachers import load_teachers
from components.training.trainer import Trainer
from feature_repo.spec import Freshness, Spec
from kernels.loader import Loader, LoaderConfig, Packed
from model import RankerConfig
from model.checkpoint import load_model, save_model
from model.files import existing_folder, read_bytes
from model.ranker import Ranker

GPU_LOADER_THREADS = 4
"""Beside a GPU the CPU has nothing else to do; without one it is the CPU that trains."""

Record = dict[str, Any]
"""What a model remembers of its training: inputs, counts, the curve; JSON values."""


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What a ranker is trained from, how, and where to.

    Attributes:
        shards: the folder that it is trained on.
        out: the folder of its model; its checkpoints lie in `checkpoints/<name>` beside it.
        ranker: what is trained.
        spec: names everything that the shards hold.
        config: how it is trained.
        freshness: how late serving is; shards of another are refused.
        start: the folder of the weights to start from (warm); None is a cold start.
        teachers: the folders of the teachers, as many as `config` wants.
    """

    shards: Path
    out: Path
    ranker: RankerConfig
    spec: Spec
    config: TrainConfig
    freshness: Freshness
    start: Path | None = None
    teachers: tuple[Path, ...] = ()

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints lie until it is finished."""
        return self.out.parent / "checkpoints" / self.out.name

    def train(self) -> Record:
        """Trains the ranker and writes it to `out`.

        A run that was killed goes on from its newest checkpoint, and a finished one with the same
        inputs returns at once.

        Raises:
            ValueError: broken or empty shards, a start that does not fit, another number of
                teachers, a loss that is not finite, or a checkpoint that cannot be written; one
                sentence.
        """
        with process_group() as group:
            loader = self.open(group)
            inputs = self._inputs(loader)
            record = self._finished(inputs)
            if record is None:
                return self._trained(loader, inputs, group)
            if group.leads:  # a run killed after its model was whole left them
                clear_checkpoints(self.checkpoints)
        return record

    def finished(self) -> Record | None:
        """The record of a whole model in `out` that these very inputs made, or None.

        Raises:
            ValueError: broken or empty shards, or no weights to start from; one sentence.
        """
        with process_group() as group:
            return self._finished(self._inputs(self.open(group)))

    def open(self, group: Group) -> Loader:
        """This process's share of the batches.

        Raises:
            ValueError: the shards are broken, or hold nothing to train on.
        """
        loader = open_loader(self.shards, self.spec, self._loading(group), self.freshness)
        if not any(shard.targets for shard in loader.shards):
            raise ValueError(
                f"the shards in {self.shards} hold no impression to train on: {_contents(loader)}; "
                "choose days with timed impressions newer than the model to start from"
            )
        return loader

    def _loading(self, group: Group) -> LoaderConfig:
        cuda = group.device.type == "cuda"
        return LoaderConfig(
            batch=self.config.global_batch,
            seed=self.config.seed,
            session_shuffle=self.config.session_shuffle,
            trade_slots=self.freshness == "immediate",
            sort_by_length=True,
            limit=window_limit(self.spec),
            rank=group.rank,
            world=group.world,
            prefetch=1,
            threads=GPU_LOADER_THREADS if cuda else 1,
            pin=cuda,
        )

    def _inputs(self, loader: Loader) -> dict[str, Any]:
        """Everything that the weights are a function of, as JSON values."""
        corrected = [task.name for task in self.spec.tasks if task.examined]
        return {
            **({"corrected": corrected} if self.config.propensity else {}),
            "shards": _shards_hash(loader),
            "ranker": self.ranker.model_dump(mode="json"),
            "spec": self.spec.hash,
            "train": self.config.model_dump(mode="json", exclude={"checkpoint_steps"}),
            "freshness": self.freshness,
            "start": self.start and _weights_hash(self.start),
        }

    def _finished(self, inputs: dict[str, Any]) -> Record | None:
        if not (self.out / "config.json").is_file():
            return None
        try:
            record = load_model(self.out, self.spec)[1]
        except ValueError:
            return None
        return record if record.get("inputs") == inputs else None

    def _trained(self, loader: Loader, inputs: dict[str, Any], group: Group) -> Record:
        trainer = self._trainer(loader, inputs, group)
        trainer.run()
        record = self._record(trainer, inputs)
        if group.leads:
            save_model(self.out, trainer.model, record)
            clear_checkpoints(self.checkpoints)
        group.barrier()
        return record

    def _trainer(self, loader: Loader, inputs: dict[str, Any], group: Group) -> Trainer:
        packs = sample(loader)
        as_of_ms = max(int(shard.metadata.get("as_of_ms", 0)) for shard in loader.shards)
        return Trainer(
            model=self._first_model(packs).to(group.device),
            spec=self.spec,
            config=self.config,
            loader=loader,
            weighting=estimate_weighting(packs, self.spec, self.config, as_of_ms),
            group=group,
            inputs=fingerprint(inputs),
            checkpoints=self.checkpoints,
            teachers=load_teachers(self.teachers, self.spec, self.config, group.device),
        )

    def _first_model(self, packs: list[Packed]) -> Ranker:
        if self.start is None:
            return cold_model(self.ranker, self.spec, self.config.seed, packs)
        return warm_model(self.ranker, self.spec, self.start)

    def _record(self, trainer: Trainer, inputs: dict[str, Any]) -> Record:
        """The same for the same inputs, so without times."""
        shards = trainer.loader.shards
        return {
            "freshness": self.freshness,
            "inputs": inputs,
            "steps": trainer.total,
            "sequences": trainer.loader.sequences,
            "impressions": sum(shard.impressions for shard in shards),
            "targets": sum(shard.targets for shard in shards),
            "auxiliary": sum(shard.auxiliary for shard in shards),
            "as_of_ms": trainer.weighting.as_of_ms,
            "propensity": list(trainer.weighting.propensity),
            "curve": trainer.curve.points,
        }


def _contents(loader: Loader) -> str:
    """What shards without a target hold, in words."""
    impressions = sum(shard.impressions for shard in loader.shards)
    untimed = sum(shard.auxiliary for shard in loader.shards)
    if untimed:
        return f"of {impressions}, {untimed} are new, all of them untimed"
    return f"of {impressions}, none is new" if impressions else "no sequence at all"


def _shards_hash(loader: Loader) -> str:
    listing = "".join(
        f"{shard.path.name} {shard.checksum} {shard.impressions} {sorted(shard.metadata.items())}\n"
        for shard in loader.shards
    )
    return hashlib.sha256(listing.encode()).hexdigest()


def _weights_hash(folder: Path) -> str:
    weights = read_bytes(existing_folder(folder) / "model.safetensors")
    return hashlib.sha256(weights).hexdigest()
