# SPDX-License-Identifier: Apache-2.0
"""`feedsr scaling`: AUC against the operations of training, over sizes of Feed-SR.

All sizes see the same log for the same epochs; the operations grow with the model alone. A
line is fitted to AUC over the logarithm of the operations (paper: +0.0093 for ten times as many).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.backtest.split import LogSplit
from components.console import progress
from components.layout.paths import absolute
from components.studies.config import StudyConfig, changed, starting_config
from components.studies.learners import ModelLearner, model_folder
from components.studies.results import ResultsFile
from components.studies.trial import Trial, prepare_trial, run_if_free
from components.training.data import evaluation_batches
from feature_repo.spec import Spec
from model.checkpoint import load_model

SIZES = ((16, 1), (16, 2), (32, 1), (32, 2), (64, 2), (64, 4), (128, 2), (128, 4), (256, 2))
"""Width and layers of each size; attention heads have 32 channels, and the task head grows too."""
BACKWARD = 2
"""A backward takes twice the forward's operations."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """`AUC = at_one + slope * log10(operations)`, and the standard error of the slope."""

    slope: float
    at_one: float
    slope_error: float

    @classmethod
    def fit(cls, operations: Sequence[float], auc: Sequence[float]) -> Line:
        """Least squares; the error is NaN for fewer than three points.

        Raises:
            ValueError: fewer than two different numbers of operations.
        """
        x, y = np.log10(np.array(operations, float)), np.array(auc, float)
        if len(set(operations)) < 2:
            raise ValueError("a line wants figures of at least two sizes; run more of the study")
        slope, at_one = np.polyfit(x, y, 1)
        rest = y - (at_one + slope * x)
        spread = math.nan
        if len(x) > 2:
            spread = math.sqrt((rest**2).sum() / (len(x) - 2) / ((x - x.mean()) ** 2).sum())
        return cls(slope=float(slope), at_one=float(at_one), slope_error=spread)


def run(split: LogSplit, seeds: int, config: str, path: Path, work: Path) -> int:
    """Trains and ranks every size with every seed; what the results have is not done again.

    Returns:
        How many trials are left to other processes that hold them now.

    Raises:
        ValueError: the log or the configuration is wrong; one sentence.
    """
    start = starting_config(split, config)
    setting = {**split.setting, "config": start.model_dump(mode="json", exclude={"dcnv2"})}
    results = ResultsFile(path=path, name="scaling", setting=setting)
    left = 0
    with progress("trials", seeds * len(SIZES)) as advance:
        for seed in range(seeds):
            for width, layers in SIZES:
                trial = sized(split, start, width, layers, seed)
                left += not _is_measured(results, trial, absolute(work))
                advance()
    return left


def sized(split: LogSplit, start: StudyConfig, width: int, layers: int, seed: int) -> Trial:
    """The trial of one size."""
    head = {"width": 2 * width, "rank": max(width // 4, 4)}
    shape = {"width": width, "layers": layers, "heads": max(width // 32, 1), "head": head}
    config = changed(start, {"feed_sr": shape})
    return Trial(split=split, config=config, learner=ModelLearner(config.feed_sr), seed=seed)


def _is_measured(results: ResultsFile, trial: Trial, work: Path) -> bool:
    """Whether the size has this seed's figures, after the trial where it had not."""
    about = {"width": trial.config.feed_sr.width, "layers": trial.config.feed_sr.layers}
    row = f"{about['width']} wide, {about['layers']} deep"
    if results.seed(row, trial.seed, trial.fingerprint):
        return True
    outcome = run_if_free(trial, work)
    if outcome is None:
        return False
    figures = {"training_flops": training_flops(trial, work), **outcome.values}
    results.put(row, about, trial.seed, {"fingerprint": trial.fingerprint, **figures})
    return True


def training_flops(trial: Trial, work: Path) -> int:
    """Operations that the training of a trial that was run took."""
    spec = trial.config.spec
    ranker, _ = load_model(model_folder(trial, work), spec)
    once = forward_flops(ranker, prepare_trial(trial, work).train, spec)
    return (1 + BACKWARD) * trial.config.cold.epochs * once


def forward_flops(ranker: Any, folder: Path, spec: Spec) -> int:
    """Operations of a forward over every sequence of a folder of shards."""
    total = 0
    for batch, _ in evaluation_batches(folder, spec):
        known_M = batch.impressions.known_M.long()
        # a post token sees 2 * known tokens and itself, its action token one more
        pairs = int((4 * known_M + 3).sum())
        total += ranker.training_flops(len(known_M), len(batch.target_R), pairs)
    return total
