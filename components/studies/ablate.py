# SPDX-License-Identifier: Apache-2.0
"""`feedsr ablate`: every experiment against its reference, seed by seed, resumable.

The reference of a row is the default configuration with the row's `base`. Seeds are the outer loop,
so a study that is stopped early has every row with fewer seeds. Processes that run the same study
share its work: a trial that another one holds is left to it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.backtest.split import OWN, LogSplit, simulator_config
from components.console import progress
from components.layout.paths import absolute
from components.log.sources.feedback import examination
from components.studies.config import StudyConfig, changed, starting_config
from components.studies.differences import add_differences
from components.studies.experiments import (
    ABLATION,
    PARTS,
    Experiment,
    reference_of,
    training,
    with_references,
)
from components.studies.learners import ModelLearner
from components.studies.results import ResultsFile
from components.studies.trial import Trial, run_if_free, run_in_turn


@dataclass(frozen=True, kw_only=True)
class Study:
    """What every trial of an ablation shares.

    Attributes:
        config: the default configuration.
        work: folder of shards, weights and scores.
        results: where the figures go.
    """

    split: LogSplit
    config: StudyConfig
    work: Path
    results: ResultsFile

    def trial(self, experiment: Experiment, seed: int) -> Trial:
        """The trial of an experiment's row with one seed."""
        config = changed(changed(self.config, experiment.base), experiment.changes)
        return Trial(
            split=self.split, config=config, learner=ModelLearner(config.feed_sr), seed=seed
        )


def run(
    split: LogSplit,
    experiments: Sequence[Experiment],
    seeds: int,
    config: str,
    path: Path,
    work: Path,
) -> int:
    """`ablate` from names and paths; see there."""
    start = starting_config(split, config)
    setting = {**split.setting, "config": start.model_dump(mode="json")}
    results = ResultsFile(path=path, name="ablate", setting=setting)
    study = Study(split=split, config=start, work=absolute(work), results=results)
    return ablate(study, experiments, seeds)


def ablate(study: Study, experiments: Sequence[Experiment], seeds: int) -> int:
    """Runs what is not in the results yet.

    Returns:
        How many trials are left to other processes that hold them now.

    Raises:
        ValueError: an experiment does not fit the configuration or the log; one sentence.
    """
    rows = with_references(experiments)
    trials = [(row, study.trial(row, seed)) for seed in range(seeds) for row in rows]
    left = 0
    with progress("trials", len(trials)) as advance:
        for experiment, trial in trials:
            left += not _is_measured(study, experiment, trial)
            advance()
    references = {row.row: reference_of(row).row for row in rows}
    add_differences(study.results, study.work, references, study.config.spec.task_names)
    return left


def choose_experiments(split: LogSplit, parts: Sequence[str]) -> list[Experiment]:
    """The experiments of these parts (all, where none is named) that say something on this log.

    Raises:
        ValueError: there is no such part.
    """
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"there is no part {part!r}; have {', '.join(PARTS)}")
    wanted = [e for e in ABLATION if not parts or e.part in parts]
    return [
        _with_propensities(e, split) if e.knows_propensities else e
        for e in wanted
        if split.kind in e.logs or (split.kind == OWN and not e.knows_propensities)
    ]


def _with_propensities(experiment: Experiment, split: LogSplit) -> Experiment:
    """The experiment with the propensities that the simulator made this log with."""
    simulator = simulator_config(split.data)
    propensity = examination(np.arange(simulator.request_size), simulator).tolist()
    changes = {**experiment.changes, **training(propensity=propensity)}
    return dataclasses.replace(experiment, changes=changes)


def _is_measured(study: Study, experiment: Experiment, trial: Trial) -> bool:
    """Whether the row has this seed's figures, after the trial where it had not."""
    if study.results.seed(experiment.row, trial.seed, trial.fingerprint):
        return True
    outcome = run_if_free(trial, study.work)
    if outcome is None:
        return False
    reference = study.trial(reference_of(experiment), trial.seed)
    if reference.fingerprint != trial.fingerprint:
        run_in_turn(reference, study.work)  # its scores are wanted, wherever they were made
    result = {"fingerprint": trial.fingerprint, **outcome.values}
    study.results.put(experiment.row, describe(experiment), trial.seed, result)
    return True


def describe(experiment: Experiment) -> dict[str, Any]:
    """What the results say of a row beside its figures: what its trials are made of."""
    return {
        "part": experiment.part,
        "name": experiment.name,
        "changes": dict(experiment.changes),
        "base": dict(experiment.base),
        "reference": reference_of(experiment).row,
    }
