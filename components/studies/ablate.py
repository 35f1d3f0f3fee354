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

from components.backtest.prepare import simulated
from components.console import progress
from components.layout.paths import absolute
from components.log.sources.feedback import examination
from components.studies.apart import set_apart
from components.studies.config import StudyConfig, changed
from components.studies.experiments import (
    ABLATION,
    PARTS,
    Experiment,
    reference_of,
    training,
    with_references,
)
from components.studies.results import ResultsFile
from components.studies.trial import Log, Trial, claimed_trial, run_trial


@dataclass(frozen=True, kw_only=True)
class Study:
    """What every trial of an ablation shares.

    Attributes:
        config: the default configuration.
        work: folder of shards, weights and scores.
        results: where the figures go.
    """

    log: Log
    config: StudyConfig
    work: Path
    results: ResultsFile


def run(
    log: Log,
    experiments: Sequence[Experiment],
    seeds: int,
    config: str,
    path: Path,
    work: Path,
) -> int:
    """`ablate` from names and paths; see there."""
    start = log.config(config)
    setting = {**log.setting, "config": start.model_dump(mode="json")}
    results = ResultsFile(path=path, name="ablate", setting=setting)
    study = Study(log=log, config=start, work=absolute(work), results=results)
    return ablate(study, experiments, seeds)


def ablate(study: Study, experiments: Sequence[Experiment], seeds: int) -> int:
    """Runs what is not in the results yet.

    Returns:
        How many trials are left to other processes that hold them now.

    Raises:
        ValueError: an experiment does not fit the configuration or the log; one sentence.
    """
    rows = with_references(experiments)
    trials = [(e, _trial(study, e, seed)) for seed in range(seeds) for e in rows]
    left = 0
    with progress("trials", len(trials)) as advance:
        for experiment, trial in trials:
            left += not _measured(study, experiment, trial)
            advance()
    references = {e.row: reference_of(e).row for e in rows}
    set_apart(study.results, study.work, references, study.config.spec.task_names)
    return left


def chosen(log: Log, parts: Sequence[str]) -> list[Experiment]:
    """The experiments of these parts (all, where none is named) that say something on this log.

    Raises:
        ValueError: there is no such part.
    """
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"there is no part {part!r}; have {', '.join(PARTS)}")
    wanted = [e for e in ABLATION if not parts or e.part in parts]
    return [
        _told(e, log) if e.planted else e
        for e in wanted
        if log.kind in e.logs or (log.kind == "own" and not e.planted)
    ]


def _told(experiment: Experiment, log: Log) -> Experiment:
    """The experiment with the propensities that the simulator plants in this log."""
    simulator = simulated(log.data)
    planted = examination(np.arange(simulator.request_size), simulator).tolist()
    changes = {**experiment.changes, **training(propensity=planted)}
    return dataclasses.replace(experiment, changes=changes)


def _measured(study: Study, experiment: Experiment, trial: Trial) -> bool:
    """Whether the row has this seed's figures, after the trial where it had not."""
    if study.results.seed(experiment.row, trial.seed, trial.fingerprint):
        return True
    with claimed_trial(study.work, trial) as mine:
        if not mine:
            return False
        outcome = run_trial(trial, study.work)
    reference = _trial(study, reference_of(experiment), trial.seed)
    if reference.fingerprint != trial.fingerprint:  # its scores are wanted, wherever it was done
        with claimed_trial(study.work, reference, wait=True):
            run_trial(reference, study.work)
    result = {"fingerprint": trial.fingerprint, **outcome.values}
    study.results.put(experiment.row, described(experiment), trial.seed, result)
    return True


def _trial(study: Study, experiment: Experiment, seed: int) -> Trial:
    config = changed(changed(study.config, experiment.base), experiment.changes)
    return Trial(log=study.log, config=config, ranker=config.feed_sr, seed=seed)


def described(experiment: Experiment) -> dict[str, Any]:
    """What the results say of a row beside its figures: what its trials are made of."""
    return {
        "part": experiment.part,
        "name": experiment.name,
        "changes": dict(experiment.changes),
        "base": dict(experiment.base),
        "reference": reference_of(experiment).row,
    }
