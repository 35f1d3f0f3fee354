# SPDX-License-Identifier: Apache-2.0
"""`feedsr compare`: every contender tuned alike on some days, then tested once on the days after.

Tuning looks at the choosing days with one seed, whose best few differ by less than seeds do: those
are trained with more, and the highest mean is chosen. The test days are seen by the chosen
configuration alone, with every seed, trained anew on all days before them. Optuna's sampler is
seeded, so that a run that goes on suggests what it suggested before, and finds those figures among
the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from components.backtest.backtest import ranker_configs
from components.console import progress
from components.evaluation.scorecard import compares_within_day
from components.layout.paths import absolute
from components.studies.apart import set_apart
from components.studies.config import StudyConfig, changed, merged
from components.studies.contenders import CONTENDERS, OURS, Between, Contender
from components.studies.results import ResultsFile
from components.studies.trial import Log, Trial, claimed_trial, run_trial
from model.config import RankerConfig

RANDOM_TRIALS = 4
"""Tried before the sampler looks at what was better."""
FINALISTS = 3
"""The best of the tuned, between which more seeds choose."""
Values = dict[str, Any]


@dataclass(frozen=True)
class Tuned:
    """A configuration that was tried: its number, what it changes, and its AUC with seed 0."""

    number: int
    values: Values
    auc: float


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

    choosing: Log
    testing: Log
    config: StudyConfig
    task: str
    trials: int
    choosing_seeds: int
    seeds: int
    work: Path
    results: ResultsFile


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """How a comparison is run.

    Attributes:
        rankers: names of the contenders; none is all.
        trials, choosing_seeds, seeds: see `Comparison`.
        freshness: how late features and histories are, in training and when ranking.
        config: a shipped configuration or a JSON file; "" is chosen by the data.
    """

    rankers: Sequence[str] = ()
    trials: int = 8
    choosing_seeds: int = 3
    seeds: int = 5
    freshness: str = "day"
    config: str = ""


def run(choosing: Log, test_through: str, options: CompareOptions, path: Path, work: Path) -> int:
    """`compare` from names and paths; see there.

    Raises:
        ValueError: a ranker or a freshness is none, a ranker's base is not compared, or the test
            ends before it begins.
    """
    known = [contender.name for contender in CONTENDERS]
    for name in options.rankers:
        if name not in known:
            raise ValueError(f"there is no ranker {name!r}; have {', '.join(known)}")
    # in the order of the list, where a base comes before what starts from it
    compared = [c for c in CONTENDERS if c.name in options.rankers] or CONTENDERS
    start = changed(choosing.config(options.config), {"freshness": options.freshness})
    day = start.spec.day_number(choosing.test_through) + 1
    testing = Log(
        data=choosing.data, train_before=start.spec.day_name(day), test_through=test_through
    )
    setting = {
        **choosing.setting,
        "choose_through": choosing.test_through,
        "test_through": test_through,
        "config": start.model_dump(mode="json"),
    }
    comparison = Comparison(
        choosing=choosing,
        testing=testing,
        config=start,
        task=start.gate.task,
        trials=options.trials,
        choosing_seeds=options.choosing_seeds,
        seeds=options.seeds,
        work=absolute(work),
        results=ResultsFile(path=path, name="compare", setting=setting),
    )
    there = {contender.name for contender in compared} | comparison.results.entries().keys()
    for contender in compared:
        if contender.base and contender.base not in there:
            raise ValueError(
                f"{contender.name} starts from what was chosen for {contender.base}; compare that "
                "as well"
            )
    return compare(comparison, compared)


def compare(comparison: Comparison, contenders: Sequence[Contender]) -> int:
    """Tunes and tests what the results lack.

    Returns:
        How many contenders are left to other processes that hold one of their trials now.

    Raises:
        ValueError: the log, the configuration or a library that is not installed; one sentence.
    """
    left = 0
    finalists = min(comparison.trials, FINALISTS) if comparison.trials > 1 else 0
    tuning = comparison.trials + finalists * (comparison.choosing_seeds - 1)
    total = sum((0 if c.base else tuning) + comparison.seeds for c in contenders)
    with progress("trials", total) as advance:
        for contender in contenders:
            best = _best(comparison, contender, advance)
            left += best is None or not _test(comparison, contender, best, advance)
    config = comparison.config
    set_apart(
        comparison.results,
        comparison.work,
        {contender.name: OURS for contender in contenders},
        config.spec.task_names,
        within=compares_within_day(config.freshness),
    )
    return left


def _best(comparison: Comparison, contender: Contender, advance: Any) -> Values | None:
    """The configuration that is tested; None where another process is at it."""
    if contender.base:
        base = comparison.results.entries().get(contender.base)
        return None if base is None else {**base["chosen"], **contender.changes}
    tried = tune(comparison, contender, advance)
    best = None if tried is None else choose(comparison, contender, tried, advance)
    return None if best is None else best.values


def tune(comparison: Comparison, contender: Contender, advance: Any) -> list[Tuned] | None:
    """What was tried on the choosing days; None where another process is at it."""
    optuna = _load_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=RANDOM_TRIALS)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    tried: list[Tuned] = []
    for number in range(comparison.trials):
        asked = study.ask()
        values = {} if number == 0 else suggest(asked, contender)
        auc = _chosen_by(comparison, contender, f"tuning: {contender.name}", number, values, 0)
        if auc is None:
            return None
        if number:
            study.tell(asked, auc)
        else:  # the start lies outside what is suggested, and is no point of the sampler's
            study.tell(asked, state=optuna.trial.TrialState.PRUNED)
        tried.append(Tuned(number, values, auc))
        advance()
    return tried


def choose(
    comparison: Comparison, contender: Contender, tried: Sequence[Tuned], advance: Any
) -> Tuned | None:
    """The finalist with the highest mean AUC over the choosing seeds, the first of equals; None
    where other processes hold trainings, once the others are done.
    """
    if len(tried) == 1:
        return tried[0]
    finalists = sorted(tried, key=lambda one: one.auc, reverse=True)[:FINALISTS]
    means, held = [], False
    for one in finalists:
        row, total = f"finalist: {contender.name} {one.number}", one.auc
        for seed in range(1, comparison.choosing_seeds):
            auc = _chosen_by(comparison, contender, row, seed, one.values, seed)
            if auc is None:
                held = True
                continue
            total += auc
            advance()
        means.append(total / comparison.choosing_seeds)
    return None if held else finalists[means.index(max(means))]


def suggest(asked: Any, contender: Contender) -> Values:
    """A value for everything that is tuned, by dotted name."""
    values = {}
    for name, choices in contender.space.items():
        if isinstance(choices, Between):
            values[name] = asked.suggest_float(name, choices.low, choices.high, log=True)
        else:
            values[name] = asked.suggest_categorical(name, choices)
    return values


def make_trial(
    comparison: Comparison, contender: Contender, values: Values, log: Log, seed: int
) -> Trial:
    """The trial of a contender with some values changed."""
    nested: dict[str, Any] = {"ranker": {}, "cold": {}}
    for name, value in values.items():
        *path, last = name.split(".")
        inner = nested
        for step in path:
            inner = inner.setdefault(step, {})
        inner[last] = value
    ranker = contender.base or contender.name
    start = contender.start or _as_backtested(comparison.config, ranker)
    shape = type(start).model_validate(merged(start.model_dump(), nested["ranker"]))
    config = changed(comparison.config, {"cold": nested["cold"]})
    return Trial(log=log, config=config, ranker=shape, seed=seed)


def _as_backtested(config: StudyConfig, name: str) -> RankerConfig:
    return ranker_configs(config, (name,))[name]


def _load_optuna() -> Any:
    try:
        return import_module("optuna")
    except ImportError as error:
        raise ValueError(
            f"Optuna cannot be loaded ({error}); install it with: pip install 'feedsr[study]'"
        ) from error


def _chosen_by(
    comparison: Comparison, contender: Contender, row: str, key: int, values: Values, seed: int
) -> float | None:
    """The AUC of a configuration on the choosing days, kept as `key` of a row of the results; None
    where another process is at it, and zero, below every ranker, where it has none.
    """
    trial = make_trial(comparison, contender, values, comparison.choosing, seed)
    found = comparison.results.seed(row, key, trial.fingerprint)
    if found is None:
        with claimed_trial(comparison.work, trial) as mine:
            if not mine:
                return None
            outcome = run_trial(trial, comparison.work)
        auc = outcome.values["tasks"][comparison.task]["auc"]
        found = {"fingerprint": trial.fingerprint, "values": values, "auc": auc}
        comparison.results.put(row, {"contender": contender.name}, key, found)
    return float(found["auc"] or 0.0)


def _test(comparison: Comparison, contender: Contender, best: Values, advance: Any) -> bool:
    """Measures the chosen configuration with every seed that no other process holds; whether that
    was all.
    """
    held = False
    for seed in range(comparison.seeds):
        trial = make_trial(comparison, contender, best, comparison.testing, seed)
        if comparison.results.seed(contender.name, seed, trial.fingerprint) is None:
            with claimed_trial(comparison.work, trial) as mine:
                if not mine:
                    held = True
                    continue
                outcome = run_trial(trial, comparison.work)
            result = {"fingerprint": trial.fingerprint, **outcome.values}
            comparison.results.put(contender.name, {"chosen": best}, seed, result)
        advance()
    return not held
