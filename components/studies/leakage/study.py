# SPDX-License-Identifier: Apache-2.0
"""How much of a next-impression AUC is feedback of the same session, which serving has not yet.

An offline evaluation in which each impression knows everything before it flatters a ranker: serving
ranks a session whole, before its first feedback. One ranker is trained on what each impression knew
and one on what was known when its session began; both are scored on the test days. It promotes
nothing. Intervals are over members, for the rankers as they were trained; how much another training
would move them is what `seeds` shows.

    reported   trained uncut, scored uncut: what one would claim
    history    trained uncut, scored with the history cut and the counters not
    served     trained uncut, scored cut: what serving would get from that ranker
    honest     trained cut, scored cut: what serving gets from a ranker that was trained for it
    day        trained and scored with freshness "day": completed days alone, the floor
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from components.backtest.bootstrap import BootstrapAuc, interval
from components.backtest.prepare import config_for, default_work
from components.backtest.provenance import versions
from components.backtest.rankers import ranker_configs, train_seed
from components.backtest.scored import scored_batches
from components.backtest.split import LogSplit
from components.config import Config, DailyConfig
from components.evaluation.scorecard import plain
from components.layout.files import check_writable, write_json
from components.layout.paths import Layout, absolute
from components.registry.gate import CANDIDATE
from components.studies.leakage.cut import SessionCut, Sessions
from components.studies.leakage.mood import mood_aucs
from components.studies.leakage.shards import LeakageShards, day_config, prepare_shards
from components.studies.leakage.table import print_tables
from feature_repo.spec import Spec

Result = dict[str, Any]
Rankers = Mapping[str, torch.nn.Module]
Aucs = dict[str, npt.NDArray[np.float64]]
"""`[K, 1 + resamples]` by name, the data itself first."""
DIFFERENCES = {
    "leaked": ("reported", "served"),
    "recoverable": ("honest", "served"),
    "net": ("reported", "honest"),
}
"""What is reported of two AUCs: the first minus the second."""


class LeakageOptions(Config):
    """How a log's leakage is measured.

    Attributes:
        sessions: which impressions are one session; see
        `components.studies.leakage.cut.SessionCut`.
        ranker: name of the ranker that is trained.
        seeds: each is trained with so many seeds, from the configuration's on.
        resamples: how often the members are drawn for the intervals.
        config: a shipped configuration or a JSON file; "" is chosen by the data.
        work: folder for everything that is made on the way, reused by the next run and shared with
            backtests; None is `runs/backtest/<data>`.
    """

    sessions: Sessions = "logged"
    ranker: str = CANDIDATE
    seeds: int = Field(1, ge=1)
    resamples: int = Field(200, ge=20, le=10_000)
    config: str = ""
    work: Path | None = None


def leakage(
    split: LogSplit, options: LeakageOptions | None = None, json_path: Path | None = None
) -> Result:
    """Prepares the log, trains the rankers that are not there yet, scores them, prints the tables.

    Args:
        split: the log, and where it is cut in time.
        options: see `LeakageOptions`.
        json_path: also write the result there.

    Returns:
        tasks ({TASK: {auc: {NAME: AUC}, leaked, recoverable, net: {value, low, high}}}, AUCs as
        the module's text names them, means over seeds), seeds (each one's AUCs), sessions (counted
        over the test days; shares), planted (what `mood_aucs` says, None unless the log is
        simulated here), settings and versions.

    Raises:
        ValueError: a date, the ranker, the log or the configuration is wrong; one sentence.
        OSError: `json_path` cannot be written; before anything is trained.
    """
    options = options or LeakageOptions()
    config = config_for(split, options.config).model_copy(update={"freshness": "immediate"})
    ranker_configs(config, (options.ranker,))  # refuses a name that is none, before any work
    if json_path is not None:
        check_writable(json_path)
    result = _measure(split, config, options)
    if json_path is not None:
        write_json(json_path, result)
    print_tables(result)
    return result


def _measure(split: LogSplit, config: DailyConfig, options: LeakageOptions) -> Result:
    """The whole result, as JSON values."""
    work = absolute(options.work or default_work(split))
    cut = SessionCut(spec=config.spec, sessions=options.sessions)
    shards = prepare_shards(split, work, config, cut)
    seeds = [
        _score(shards, _train(shards, work, config, options.ranker, seed), config.spec, options)
        for seed in range(options.seeds)
    ]
    mood = mood_aucs(Layout.at(work), split.test_days) if split.is_simulated else None
    whole = {
        "name": "leakage",
        **_summary(seeds, config.spec.task_names),
        "sessions": _shares(shards.counts),
        "planted": mood,
        "settings": _settings(split, config, options),
        "versions": versions(),
    }
    return plain(whole)  # type: ignore[no-any-return]


def _settings(split: LogSplit, config: DailyConfig, options: LeakageOptions) -> Result:
    return {
        **options.model_dump(mode="json", exclude={"work", "config"}),
        **split.setting,
        "config": config.model_dump(mode="json"),
        "spec_hash": config.spec.hash,
    }


def _train(shards: LeakageShards, work: Path, config: DailyConfig, name: str, seed: int) -> Rankers:
    """The rankers of one seed by what they were trained on; trained ones are loaded.

    Those of uncut shards are the ones of a backtest of the same work folder.
    """
    ranker = ranker_configs(config, (name,))[name]
    return {
        "uncut": train_seed(work, shards.uncut.train, ranker, config, seed),
        "cut": train_seed(work, shards.cut.train, ranker, config, seed),
        "day": train_seed(work, shards.day.train, ranker, day_config(config), seed),
    }


def _score(shards: LeakageShards, rankers: Rankers, spec: Spec, options: LeakageOptions) -> Aucs:
    """The AUCs by name; the same members are drawn for all of them."""
    pairs = {
        "reported": ("uncut", shards.uncut.test),
        "history": ("uncut", shards.history),
        "served": ("uncut", shards.cut.test),
        "honest": ("cut", shards.cut.test),
        "day": ("day", shards.day.test),
    }
    aucs = {}
    for name, (ranker, folder) in pairs.items():
        auc = BootstrapAuc(len(spec.task_names), options.resamples)
        for batch in scored_batches(rankers[ranker], folder, spec):
            auc.update(batch.logits_RK, batch.rows.labels_RK, batch.member_R)
        aucs[name] = auc.auc()
    return aucs


def _summary(seeds: Sequence[Aucs], tasks: Sequence[str]) -> Result:
    """AUCs and their differences, means over seeds resample by resample, and each seed's own."""
    mean = {name: np.mean([aucs[name] for aucs in seeds], axis=0) for name in seeds[0]}
    return {
        "tasks": {task: _figures(mean, k) for k, task in enumerate(tasks)},
        "seeds": [{task: _of_data(aucs, k) for k, task in enumerate(tasks)} for aucs in seeds],
    }


def _figures(aucs: Aucs, k: int) -> Result:
    """One task's AUCs and their differences."""
    differences = {
        name: interval(aucs[first][k] - aucs[second][k])
        for name, (first, second) in DIFFERENCES.items()
    }
    return {"auc": _of_data(aucs, k), **differences}


def _of_data(aucs: Aucs, k: int) -> Result:
    """One task's AUCs in the data itself."""
    return {name: values[k, 0] for name, values in aucs.items()}


def _shares(counts: Mapping[str, int]) -> dict[str, float]:
    """The counts of the test shards, the share of sessions of many and of targets that are cut."""
    many = counts["sessions_of_many"] / counts["sessions"]
    return {
        **{n: counts[n] for n in ("targets", "known_cut", "sessions", "sessions_of_many")},
        "share_of_many": many,
        "share_cut": counts["known_cut"] / counts["targets"],
    }
