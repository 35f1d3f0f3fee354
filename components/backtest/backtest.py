# SPDX-License-Identifier: Apache-2.0
"""A backtest: train each ranker on what was known before a date, rank the days after it.

Works on any log that a source knows, without Feast: the features and histories of every row are as
fresh as was asked for, each with its own cutoff. It promotes nothing and knows no registry; the
stages that prepare the log are `components.backtest.prepare`.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from components.backtest.prepare import Prepared, config_for, prepare
from components.backtest.split import Split
from components.config import DailyConfig
from components.evaluation.evaluate import evaluate_ranker
from components.evaluation.scorecard import compares_within_day
from components.layout.files import check_writable, digest, write_json
from components.layout.paths import absolute
from components.registry.gate import BASELINE, CANDIDATE
from components.training.distributed import this_device
from components.training.run import TrainingRun
from components.training.train import fit
from feature_repo.spec import Freshness
from model import RankerConfig
from model.build import RANKERS
from model.checkpoint import load_model

Result = dict[str, Any]
METRICS = ("auc", "log_loss", "ece", "n", "positives")
VERSIONS = ("feedsr", "torch", "numpy", "pyarrow", "duckdb")


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
    """

    rankers: tuple[str, ...] = (CANDIDATE, BASELINE)
    freshness: Freshness = "day"
    seeds: int = 1
    config: str = ""
    work: Path | None = None


def backtest(
    data: str | Path,
    train_before: str,
    test_through: str,
    options: BacktestOptions | None = None,
    json_path: Path | None = None,
) -> Result:
    """Prepares the log, trains and scores every ranker and seed, and prints the table.

    Args:
        data: a folder that a source knows, or "sim:<impressions>[,<name>=<value>...]".
        train_before: the first day that is not trained on, YYYY-MM-DD.
        test_through: the last day that is ranked.
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
    data = str(data)
    config = config_for(data, options.config).model_copy(update={"freshness": options.freshness})
    rankers = ranker_configs(config, options.rankers)
    if options.seeds < 1:
        raise ValueError(f"seeds is {options.seeds}; train each ranker with at least one")
    split = Split(
        train_before=train_before,
        test_through=test_through,
        freshness=options.freshness,
        spec=config.spec,
    )
    if json_path is not None:
        check_writable(json_path)
    work = absolute(options.work or default_work(data))
    prepared = prepare(data, work, split, config)
    models = work / "models" / f"{train_before}-{options.freshness}"
    runs = [
        _train_and_score(models, seed, rankers, prepared, config) for seed in range(options.seeds)
    ]
    result = {
        **_summary(runs, config),
        "stages": prepared.stages,
        "settings": {
            "data": absolute(data).name,
            "train_before": train_before,
            "test_through": test_through,
            "seeds": options.seeds,
            "config": config.model_dump(mode="json"),
            "spec_hash": config.spec.hash,
        },
        "versions": versions(),
    }
    if json_path is not None:
        write_json(json_path, result)
    print_table(result, config.spec.task_names)
    return result


def ranker_configs(config: DailyConfig, names: Iterable[str]) -> dict[str, RankerConfig]:
    """The configurations of the rankers with these names; ValueError lists the names there are.

    A ranker that the daily loop does not have is built with its defaults.
    """
    known = {name: made.model_validate({}) for name, (made, _) in RANKERS.items()} | config.rankers
    chosen = tuple(names)
    for name in chosen:
        if name not in known:
            raise ValueError(f"there is no ranker {name!r}; have {', '.join(known)}")
    if not chosen:
        raise ValueError(f"name at least one ranker of {', '.join(known)}")
    return {name: known[name] for name in chosen}


def default_work(data: str) -> Path:
    """Where a log's backtests keep their files when no folder was named."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", Path(data).name).strip("-").lower() or "log"
    where = digest(str(absolute(data)), 8)
    return Path("runs") / "backtest" / f"{name}-{where}"


def _train_and_score(
    models: Path,
    seed: int,
    rankers: dict[str, RankerConfig],
    prepared: Prepared,
    config: DailyConfig,
) -> Result:
    """One seed: every ranker trained and scored; a ranker that is already trained is loaded.

    Each configuration and seed has a folder of its own, so backtests may share a work folder.
    """
    recipe = config.cold.model_copy(update={"seed": config.cold.seed + seed})
    device = this_device()
    found: Result = {"seed": recipe.seed, "rankers": {}, "seconds": {}}
    for name, chosen in rankers.items():
        text = chosen.model_dump_json() + recipe.model_dump_json()
        folder = models / f"{name}-{digest(text, 8)}"
        started = time.monotonic()
        run = TrainingRun(
            shards=prepared.train,
            out=folder,
            ranker=chosen,
            spec=config.spec,
            config=recipe,
            freshness=config.freshness,
        )
        fit(run)
        trained = time.monotonic()
        model, _ = load_model(folder, config.spec)
        measured = evaluate_ranker(model.to(device), prepared.test, config.spec)
        found["rankers"][name] = measured.plain()
        scored = time.monotonic()
        found["seconds"][name] = {
            "train": round(trained - started, 1),
            "score": round(scored - trained, 1),
        }
    return found


def _summary(runs: list[Result], config: DailyConfig) -> Result:
    """Means and standard deviations over the seeds, and each seed's own numbers."""
    names, tasks = runs[0]["rankers"], config.spec.task_names
    means: Result = {name: {} for name in names}
    spread: Result = {name: {} for name in names}
    for name in names:
        for task in tasks:
            each = [run["rankers"][name]["tasks"][task] for run in runs]
            means[name][task] = {m: _mean([e[m] for e in each]) for m in METRICS}
            spread[name][task] = {m: _spread([e[m] for e in each]) for m in METRICS[:3]}
    within = "within_member" if compares_within_day(config.freshness) else None
    first = runs[0]["rankers"]
    return {
        "rankers": means,
        "spread": spread,
        "segments": {name: first[name]["segments"] for name in names},
        "within_member": {name: first[name][within] for name in names} if within else None,
        "seeds": [
            {"seed": run["seed"], "rankers": {n: run["rankers"][n]["tasks"] for n in names}}
            for run in runs
        ],
        "seconds": {str(run["seed"]): run["seconds"] for run in runs},
    }


def _mean(values: list[Any]) -> Any:
    """The mean; a count that is the same everywhere stays a whole number; None if one is None."""
    if any(v is None for v in values):
        return None
    return values[0] if len(set(values)) == 1 else float(np.mean(values))


def _spread(values: list[Any]) -> float | None:
    if len(values) < 2 or any(v is None for v in values):
        return None
    return float(np.std(values, ddof=1))


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def print_table(result: Result, tasks: tuple[str, ...]) -> None:
    """Prints AUC (mean and spread over seeds), log loss and calibration to standard output."""
    settings = result["settings"]
    table = Table(
        title=f"trained before {settings['train_before']}, ranked through "
        f"{settings['test_through']}, freshness {settings['config']['freshness']}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("task")
    table.add_column("ranker")
    for name in ("AUC", "log loss", "ECE", "impressions", "positives"):
        table.add_column(name, justify="right")
    for task in tasks:
        for i, (ranker, of) in enumerate(result["rankers"].items()):
            row, wide = of[task], result["spread"][ranker][task]["auc"]
            auc = _number(row["auc"]) + (f" ± {wide:.4f}" if wide is not None else "")
            counts = [f"{row['n']:,}", f"{row['positives']:,}"]
            numbers = [auc, _number(row["log_loss"]), _number(row["ece"]), *counts]
            table.add_row("" if i else task, ranker, *numbers)
    Console(highlight=False).print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
