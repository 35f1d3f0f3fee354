# SPDX-License-Identifier: Apache-2.0
"""`feedsr compare`: every contender tuned alike on some days, then tested once on the days after.

The test days are seen by the chosen configuration alone, with every seed, trained anew on all days
before them. How it is chosen is `components.studies.tuning`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.backtest.split import LogSplit
from components.console import progress
from components.evaluation.scorecard import compares_within_day
from components.layout.paths import absolute
from components.studies.config import StudyConfig, changed, starting_config
from components.studies.contenders import CONTENDERS, OURS, Contender
from components.studies.differences import add_differences
from components.studies.results import ResultsFile
from components.studies.trial import run_if_free
from components.studies.tuning import Advance, Comparison, Values, choose_values


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


def run(
    choosing: LogSplit, test_through: str, options: CompareOptions, path: Path, work: Path
) -> int:
    """`compare` from names and paths; see there.

    Raises:
        ValueError: a ranker or a freshness is none, a ranker's base is not compared, or the test
            ends before it begins.
    """
    contenders = _contenders(options.rankers)
    start = starting_config(choosing, options.config)
    config = changed(start, {"freshness": options.freshness})
    comparison = Comparison(
        choosing=choosing,
        testing=choosing.following(test_through),
        config=config,
        task=config.gate.task,
        trials=options.trials,
        choosing_seeds=options.choosing_seeds,
        seeds=options.seeds,
        work=absolute(work),
        results=_results(choosing, test_through, config, path),
    )
    _check_bases(comparison, contenders)
    return compare(comparison, contenders)


def _contenders(names: Sequence[str]) -> Sequence[Contender]:
    """Those with these names, or all; in the order of the list, a base before what starts from it.

    Raises:
        ValueError: there is no such contender.
    """
    known = [contender.name for contender in CONTENDERS]
    for name in names:
        if name not in known:
            raise ValueError(f"there is no ranker {name!r}; have {', '.join(known)}")
    return [c for c in CONTENDERS if c.name in names] or CONTENDERS


def _results(choosing: LogSplit, test_through: str, config: StudyConfig, path: Path) -> ResultsFile:
    days = {"choose_through": choosing.test_through, "test_through": test_through}
    setting = {**choosing.setting, **days, "config": config.model_dump(mode="json")}
    return ResultsFile(path=path, name="compare", setting=setting)


def _check_bases(comparison: Comparison, contenders: Sequence[Contender]) -> None:
    compared = {contender.name for contender in contenders} | comparison.results.entries().keys()
    for contender in contenders:
        if contender.base and contender.base not in compared:
            raise ValueError(
                f"{contender.name} starts from what was chosen for {contender.base}; compare that "
                "as well"
            )


def compare(comparison: Comparison, contenders: Sequence[Contender]) -> int:
    """Tunes and tests what the results lack.

    Returns:
        How many contenders are left to other processes that hold one of their trials now.

    Raises:
        ValueError: the log, the configuration or a library that is not installed; one sentence.
    """
    left, tuning = 0, comparison.tuning_trials
    total = sum((0 if c.base else tuning) + comparison.seeds for c in contenders)
    with progress("trials", total) as advance:
        for contender in contenders:
            best = choose_values(comparison, contender, advance)
            left += best is None or not _test(comparison, contender, best, advance)
    config, references = comparison.config, {contender.name: OURS for contender in contenders}
    add_differences(
        comparison.results,
        comparison.work,
        references,
        config.spec.task_names,
        within=compares_within_day(config.freshness),
    )
    return left


def _test(comparison: Comparison, contender: Contender, best: Values, advance: Advance) -> bool:
    """Measures the chosen configuration with every seed; whether no other process holds one."""
    is_whole = True
    for seed in range(comparison.seeds):
        trial = comparison.trial(contender, best, comparison.testing, seed)
        if comparison.results.seed(contender.name, seed, trial.fingerprint) is None:
            outcome = run_if_free(trial, comparison.work)
            if outcome is None:
                is_whole = False
                continue
            result = {"fingerprint": trial.fingerprint, **outcome.values}
            comparison.results.put(contender.name, {"chosen": best}, seed, result)
        advance()
    return is_whole
