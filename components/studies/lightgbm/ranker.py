# SPDX-License-Identifier: Apache-2.0
"""Boosted trees on the counters: what a ranker without a sequence makes of the same shards.

One LightGBM booster a task over each target's own features, content, context and feed position;
the member's counters carry the history. How many rounds a booster gets is decided on training
members that are held out, never on what is evaluated. It writes no files.

Shape suffixes: R rows (targets or candidates); F columns of the table; K tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from components.config import Config
from components.console import progress
from components.studies.lightgbm.table import Columns, Floats, make_table, target_table
from components.training.data import evaluation_batches
from feature_repo.spec import Spec
from model.batch import RankBatch, TrainBatch
from model.encoders import hash_ids
from model.ranker import Output

HOLDOUT_SLICES = 1000
"""Members are held out by the slice of this many that their hashed id falls in."""


class LightGBMConfig(Config):
    """How the boosters are trained; names as LightGBM has them where it has one.

    Attributes:
        rounds: boosting rounds, or the most of them where members are held out.
        patience: rounds without a better log loss on the held-out members that end the search.
        holdout: share of the training members that decides the number of rounds; the boosters are
            then trained anew on all. 0 trains `rounds` rounds.
        threads: the same boosters for any number of them.
    """

    rounds: int = Field(1000, ge=1)
    patience: int = Field(50, ge=1)
    holdout: float = Field(0.1, ge=0, lt=1)
    learning_rate: float = Field(0.05, gt=0)
    num_leaves: int = Field(63, ge=2)
    min_data_in_leaf: int = Field(50, ge=1)
    lambda_l2: float = Field(1.0, ge=0)
    feature_fraction: float = Field(0.8, gt=0, le=1)
    bagging_fraction: float = Field(0.8, gt=0, le=1)
    max_bin: int = Field(255, ge=2, le=65_535)
    threads: int = Field(1, ge=1)
    seed: int = Field(0, ge=0, lt=2**31)


class LightGBMRanker(nn.Module):
    """The boosters as a ranker, scored as any other.

    Attributes:
        boosters: one a task, or None where the training labels were all the same: the prior stays.
        prior_K: log-odds of each task in training, which the boosters add to.
    """

    def __init__(self, spec: Spec, boosters: list[Any], prior_K: Tensor) -> None:
        super().__init__()
        self.spec = spec
        self.boosters = boosters
        self.prior_K = nn.Parameter(prior_K, requires_grad=False)

    @property
    def rounds(self) -> dict[str, int]:
        """Boosting rounds of each task."""
        counts = [0 if b is None else int(b.num_trees()) for b in self.boosters]
        return dict(zip(self.spec.task_names, counts, strict=True))

    def forward(self, batch: TrainBatch) -> Output:
        """Logits of the targets `[R, K]`; the auxiliary ones are zeros, as DCN-V2's."""
        logits = self._logits(target_table(batch, self.spec))
        return Output(logits, logits.new_zeros(len(batch.auxiliary_A), len(self.boosters)))

    def rank(self, batch: RankBatch) -> Tensor:
        """Logits `[N, K]` of the candidates; the histories are not looked at."""
        return self._logits(
            make_table(batch.candidates, batch.context_NC, batch.position_N, self.spec)
        )

    def _logits(self, table_RF: Floats) -> Tensor:
        logits_RK = self.prior_K.repeat(len(table_RF), 1)
        for k, booster in enumerate(self.boosters):
            if booster is not None and len(table_RF):
                raw = booster.predict(table_RF, raw_score=True)
                logits_RK[:, k] += torch.from_numpy(raw).to(logits_RK)
        return logits_RK


def fit_lightgbm(
    shards_dir: Path, spec: Spec, config: LightGBMConfig | None = None
) -> LightGBMRanker:
    """Trains a booster for each task on every target of a folder of shards.

    Every target counts the same; a label that was not observed counts nothing.

    Raises:
        ValueError: LightGBM is not installed, or the shards are missing, broken or hold no target.
    """
    config = config or LightGBMConfig()
    lightgbm = _load_lightgbm()
    targets = _read(shards_dir, spec, config.holdout)
    prior_K = _priors(targets.labels_RK, spec)
    fitter = _Fitter(lightgbm, targets, Columns.from_spec(spec), config)
    boosters = []
    with progress("boost, tasks", len(spec.tasks)) as advance:
        for k in range(len(spec.tasks)):
            boosters.append(fitter.fit(k, float(prior_K[k])))
            advance(1)
    return LightGBMRanker(spec, boosters, torch.from_numpy(prior_K))


@dataclass(frozen=True, kw_only=True)
class _Targets:
    """All targets of a folder: the table, labels with NaN, and who is held out (bool)."""

    table_RF: Floats
    labels_RK: Floats
    held_R: npt.NDArray[np.bool_]


def _read(folder: Path, spec: Spec, holdout: float) -> _Targets:
    tables, labels, held = [], [], []
    for batch, packed in evaluation_batches(folder, spec):
        member_S = torch.from_numpy(packed.keys["member_id"])
        held_S = (hash_ids(member_S, HOLDOUT_SLICES + 1) <= holdout * HOLDOUT_SLICES).numpy()
        held.append(np.repeat(held_S, packed.lengths_S)[batch.target_R.numpy()])
        tables.append(target_table(batch, spec))
        labels.append(batch.labels_RK.numpy())
    if not sum(map(len, labels)):
        raise ValueError(f"the shards in {folder} hold no target to train on; choose other days")
    return _Targets(
        table_RF=np.concatenate(tables),
        labels_RK=np.concatenate(labels),
        held_R=np.concatenate(held),
    )


def _priors(labels_RK: Floats, spec: Spec) -> Floats:
    """float32 `[K]`, log-odds of each task; the declared prior counts as one more label."""
    count, positives = np.isfinite(labels_RK).sum(0), np.nansum(labels_RK, 0)
    declared = np.array([task.prior for task in spec.tasks])
    rate = (positives + declared) / (count + 1)
    return np.log(rate / (1 - rate)).astype(np.float32)


class _Fitter:
    """Binned tables, made once and used for every task."""

    def __init__(
        self, lightgbm: Any, targets: _Targets, columns: Columns, config: LightGBMConfig
    ) -> None:
        self.lightgbm, self.targets = lightgbm, targets
        self.columns, self.config = columns, config
        self.everyone = np.ones(len(targets.held_R), np.bool_)
        self.whole = self._dataset(self.everyone)
        self.search: tuple[Any, Any] | None = None
        if targets.held_R.any() and not targets.held_R.all():
            learned = self._dataset(~targets.held_R)
            self.search = learned, self._dataset(targets.held_R, reference=learned)

    def fit(self, k: int, prior: float) -> Any:
        """The booster of task k, or None where its observed labels are all the same."""
        if not _both(self.targets.labels_RK[:, k]):
            return None
        rounds = self._rounds(k, prior)
        whole = self._for_task(self.whole, self.everyone, k, prior)
        return self.lightgbm.train(self._parameters(), whole, num_boost_round=rounds)

    def _rounds(self, k: int, prior: float) -> int:
        """As many as did best on the held-out members; all where they cannot tell."""
        held_R, label_R = self.targets.held_R, self.targets.labels_RK[:, k]
        if self.search is None or not (_both(label_R[held_R]) and _both(label_R[~held_R])):
            return self.config.rounds
        learned, held = self.search
        booster = self.lightgbm.train(
            self._parameters(),
            self._for_task(learned, ~held_R, k, prior),
            num_boost_round=self.config.rounds,
            valid_sets=[self._for_task(held, held_R, k, prior)],
            callbacks=[self.lightgbm.early_stopping(self.config.patience, verbose=False)],
        )
        return max(int(booster.best_iteration), 1)

    def _dataset(self, chosen_R: npt.NDArray[np.bool_], reference: Any = None) -> Any:
        data = self.lightgbm.Dataset(
            self.targets.table_RF[chosen_R],
            reference=reference,
            feature_name=self.columns.names,
            categorical_feature=self.columns.categorical,
            params=self._parameters(),
        )
        return data.construct()

    def _for_task(self, data: Any, chosen_R: npt.NDArray[np.bool_], k: int, prior: float) -> Any:
        """The same bins with the labels of another task; an unknown label weighs nothing."""
        label = self.targets.labels_RK[chosen_R, k]
        data.set_label(np.nan_to_num(label))
        data.set_weight(np.isfinite(label).astype(np.float32))
        data.set_init_score(np.full(len(label), prior))
        return data

    def _parameters(self) -> dict[str, Any]:
        own = self.config.model_dump(exclude={"rounds", "patience", "holdout", "threads"})
        return {
            **own,
            "objective": "binary",
            "metric": "binary_logloss",
            "bagging_freq": 1,
            "num_threads": self.config.threads,
            "deterministic": True,
            "force_col_wise": True,
            "verbosity": -1,
        }


def _both(label_R: Floats) -> bool:
    """Whether both labels were observed."""
    return bool((label_R == 1).any() and (label_R == 0).any())


def _load_lightgbm() -> Any:
    try:
        return import_module("lightgbm")
    except (ImportError, OSError) as error:
        raise ValueError(
            f"LightGBM cannot be loaded ({error}); install it with: pip install 'feedsr[study]'"
        ) from error
