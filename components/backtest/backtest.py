# SPDX-License-Identifier: Apache-2.0
"""A backtest: train each ranker on what was known before a date, rank the days after it.

Works on any log that a source knows, without Feast: the features and histories of every row are as
fresh as was asked for, each with its own cutoff. It promotes nothing and knows no registry; the
stages that prepare the log are `components.backtest.prepare`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from components.backtest.prepare import Prepared, config_for, default_work, prepare
from components.backtest.provenance import versions
from components.backtest.rankers import ranker_configs, train_seed
from components.backtest.split import LogSplit
from components.backtest.summary import Result, summarize
from components.backtest.table import print_table
from components.config import DailyConfig
from components.evaluation.evaluate import evaluate_ranker
from components.evaluation.scorecard import compares_within_day
from components.layout.files import check_writable, write_json
from components.layout.paths import absolute
from components.registry.gate import BASELINE, CANDIDATE
from feature_repo.spec import Freshness


@dataclass(frozen=True, kw_only=True)
class BacktestOptions:
    """How a backtest is run.

    Attributes:
        rankers: names of the rankers to compare.
        freshness: how late features and histories are, in training and in the test.
        seeds: each ranker is trained with so many seeds, from the configuration's on.
        config: a shipped configuration or a JSON file; "" is chosen by the data.
        work: folder for everything that is made on the way, reused by the next run; None is
            `runs/backtest/<data>`.

    Raises:
        ValueError: there is no seed.
    """

    rankers: tuple[str, ...] = (CANDIDATE, BASELINE)
    freshness: Freshness = "day"
    seeds: int = 1
    config: str = ""
    work: Path | None = None

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}; train each ranker with at least one")


def backtest(
    split: LogSplit, options: BacktestOptions | None = None, json_path: Path | None = None
) -> Result:
    """Prepares the log, trains and scores every ranker and seed, and prints the table.

    Args:
        split: the log, and where it is cut.
        options: see `BacktestOptions`.
        json_path: also write the result there.

    Returns:
        rankers ({NAME: {TASK: {auc, log_loss, ece, n, positives}}}, means over seeds), spread (the
        standard deviations over seeds), segments and within_member (of the first seed), seeds (each
        one's own numbers), stages, seconds, settings and versions.

    Raises:
        ValueError: a date, a ranker, the log or the configuration is wrong; one sentence.
        OSError: `json_path` cannot be written; before anything is trained.
    """
    options = options or BacktestOptions()
    config = config_for(split, options.config).model_copy(update={"freshness": options.freshness})
    ranker_configs(config, options.rankers)  # refuses a name that is none, before any work
    if json_path is not None:
        check_writable(json_path)
    result = _measure(split, config, options)
    if json_path is not None:
        write_json(json_path, result)
    print_table(result, config.spec.task_names)
    return result


def _measure(split: LogSplit, config: DailyConfig, options: BacktestOptions) -> Result:
    """The whole result."""
    work = absolute(options.work or default_work(split))
    prepared = prepare(split, work, config)
    seeds = [
        _train_and_score(prepared, work, config, options.rankers, seed)
        for seed in range(options.seeds)
    ]
    within_member = compares_within_day(config.freshness)
    return {
        **summarize(seeds, config.spec.task_names, within_member=within_member),
        "stages": prepared.stages,
        "settings": _settings(split, config, options),
        "versions": versions(),
    }


def _settings(split: LogSplit, config: DailyConfig, options: BacktestOptions) -> Result:
    return {
        **split.setting,
        "seeds": options.seeds,
        "config": config.model_dump(mode="json"),
        "spec_hash": config.spec.hash,
    }


def _train_and_score(
    prepared: Prepared, work: Path, config: DailyConfig, names: tuple[str, ...], seed: int
) -> Result:
    """One seed of every ranker: its scorecard, and how long both took."""
    cards, seconds = {}, {}
    for name, ranker in ranker_configs(config, names).items():
        started = time.monotonic()
        trained = train_seed(work, prepared.train, ranker, config, seed)
        between = time.monotonic()
        cards[name] = evaluate_ranker(trained, prepared.test, config.spec).plain()
        seconds[name] = {
            "train": round(between - started, 1),
            "score": round(time.monotonic() - between, 1),
        }
    return {"seed": config.cold.seed + seed, "rankers": cards, "seconds": seconds}
