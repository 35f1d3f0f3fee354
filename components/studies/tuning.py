# SPDX-License-Identifier: Apache-2.0
"""How the configuration of a contender is chosen, on the choosing days alone.

Tuning trains with one seed, whose best few differ by less than seeds do: those are trained with
more, and the highest mean is chosen. Optuna's sampler is seeded, so that a run that goes on
suggests what it suggested before, and finds those figures among the results. It never looks at the
test days.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from components.backtest.rankers import ranker_configs
from components.backtest.split import LogSplit
from components.studies.config import StudyConfig, changed
from components.studies.contenders import Between, Contender
from components.studies.learners import ModelLearner
from components.studies.results import ResultsFile
from components.studies.trial import Trial, run_if_free

RANDOM_TRIALS = 4
"""Tried before the sampler looks at what was better."""
FINALISTS = 3
"""The best of the tuned, between which more seeds choose."""
Values = dict[str, Any]
Place = tuple[str, int]
"""A row of the results, and a number in it."""
Advance = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared.

    Attributes:
        choosing: where configurations are chosen.
        testing: where the chosen ones are measured.
        config: everything but the rankers.
        task: whose AUC is tuned.
        trials: configurations tried of each contender; 1 is the start alone.
        choosing_seeds: of each finalist on the choosing days.
        seeds: of the test.
        work: folder of shards, weights and scores.
        results: where the figures go.
    """

    choosing: LogSplit
    testing: LogSplit
    config: StudyConfig
    task: str
    trials: int
    choosing_seeds: int
    seeds: int
    work: Path
    results: ResultsFile

    def trial(self, contender: Contender, values: Values, split: LogSplit, seed: int) -> Trial:
        """The trial of a contender with some values changed, by dotted name."""
        nested: dict[str, Any] = {"ranker": {}, "cold": {}}
        for name, value in values.items():
            *path, last = name.split(".")
            inner = nested
            for step in path:
                inner = inner.setdefault(step, {})
            inner[last] = value
        ranker = contender.base or contender.name
        start = contender.start or ModelLearner(ranker_configs(self.config, (ranker,))[ranker])
        config = changed(self.config, {"cold": nested["cold"]})
        return Trial(split=split, config=config, learner=start.changed(nested["ranker"]), seed=seed)

    @property
    def finalists(self) -> int:
        """How many configurations of a contender more seeds choose between."""
        return min(self.trials, FINALISTS) if self.trials > 1 else 0

    @property
    def tuning_trials(self) -> int:
        """Trainings on the choosing days for one contender."""
        return self.trials + self.finalists * (self.choosing_seeds - 1)


@dataclass(frozen=True)
class Tuned:
    """A configuration that was tried: its number, what it changes, and its AUC with seed 0."""

    number: int
    values: Values
    auc: float


def choose_values(comparison: Comparison, contender: Contender, advance: Advance) -> Values | None:
    """What the chosen configuration changes; None where another process is at it.

    Raises:
        ValueError: the log, the configuration or a library that is not installed; one sentence.
    """
    if contender.base:
        base = comparison.results.entries().get(contender.base)
        return None if base is None else {**base["chosen"], **contender.changes}
    tried = tune(comparison, contender, advance)
    best = None if tried is None else choose(comparison, contender, tried, advance)
    return None if best is None else best.values


def tune(comparison: Comparison, contender: Contender, advance: Advance) -> list[Tuned] | None:
    """What was tried on the choosing days; None where another process is at it."""
    optuna = _load_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=RANDOM_TRIALS)
    search = optuna.create_study(direction="maximize", sampler=sampler)
    tried: list[Tuned] = []
    for number in range(comparison.trials):
        asked = search.ask()
        values = {} if number == 0 else suggest(asked, contender)
        place = (f"tuning: {contender.name}", number)
        auc = choosing_auc(comparison, contender, values, place)
        if auc is None:
            return None
        if number:
            search.tell(asked, auc)
        else:  # the start lies outside what is suggested, and is no point of the sampler's
            search.tell(asked, state=optuna.trial.TrialState.PRUNED)
        tried.append(Tuned(number, values, auc))
        advance()
    return tried


def choose(
    comparison: Comparison, contender: Contender, tried: Sequence[Tuned], advance: Advance
) -> Tuned | None:
    """The finalist with the highest mean AUC over the choosing seeds, the first of equals.

    None where other processes hold trainings, once the others are done.
    """
    if len(tried) == 1:
        return tried[0]
    finalists = sorted(tried, key=lambda tuned: tuned.auc, reverse=True)[:FINALISTS]
    means = [_mean_auc(comparison, contender, finalist, advance) for finalist in finalists]
    known = [mean for mean in means if mean is not None]
    return finalists[means.index(max(known))] if len(known) == len(means) else None


def _mean_auc(
    comparison: Comparison, contender: Contender, finalist: Tuned, advance: Advance
) -> float | None:
    """Over the choosing seeds; None where another process holds one of the trainings."""
    row, total, is_whole = f"finalist: {contender.name} {finalist.number}", finalist.auc, True
    for seed in range(1, comparison.choosing_seeds):
        auc = choosing_auc(comparison, contender, finalist.values, (row, seed), seed)
        if auc is None:
            is_whole = False
            continue
        total += auc
        advance()
    return total / comparison.choosing_seeds if is_whole else None


def suggest(asked: Any, contender: Contender) -> Values:
    """A value for everything that is tuned, by dotted name."""
    values = {}
    for name, choices in contender.space.items():
        if isinstance(choices, Between):
            values[name] = asked.suggest_float(name, choices.low, choices.high, log=True)
        else:
            values[name] = asked.suggest_categorical(name, choices)
    return values


def choosing_auc(
    comparison: Comparison, contender: Contender, values: Values, place: Place, seed: int = 0
) -> float | None:
    """The AUC of a configuration on the choosing days, kept among the results.

    None where another process is at it, and zero, below every ranker, where it has none.

    Raises:
        ValueError: see `run_trial`.
    """
    trial = comparison.trial(contender, values, comparison.choosing, seed)
    row, number = place
    kept = comparison.results.seed(row, number, trial.fingerprint)
    if kept is None:
        outcome = run_if_free(trial, comparison.work)
        if outcome is None:
            return None
        auc = outcome.values["tasks"][comparison.task]["auc"]
        kept = {"fingerprint": trial.fingerprint, "values": values, "auc": auc}
        comparison.results.put(row, {"contender": contender.name}, number, kept)
    return float(kept["auc"] or 0.0)


def _load_optuna() -> Any:
    try:
        return import_module("optuna")
    except ImportError as error:
        raise ValueError(
            f"Optuna cannot be loaded ({error}); install it with: pip install 'feedsr[study]'"
        ) from error
