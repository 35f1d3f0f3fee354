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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from components.backtest.backtest import default_work, ranker_configs, versions
from components.backtest.bootstrap import BootstrapAuc, interval
from components.backtest.prepare import SIMULATED, Prepared, config_for, prepare
from components.backtest.scored import scored_batches
from components.backtest.split import Split
from components.backtest.stages import Stages
from components.config import Config, DailyConfig
from components.evaluation.scorecard import plain
from components.layout.files import check_writable, digest, write_json
from components.layout.paths import Layout, absolute
from components.registry.gate import CANDIDATE
from components.studies.leakage.cut import SessionCut, Sessions, write_cut
from components.studies.leakage.planted import planted
from components.studies.leakage.table import print_tables
from components.training.distributed import this_device
from components.training.run import TrainingRun
from components.training.train import fit
from feature_repo.spec import Freshness, Spec
from kernels.loader.checksums import CHECKSUMS
from model.checkpoint import load_model

Result = dict[str, Any]
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


@dataclass(frozen=True, kw_only=True)
class Shards:
    """The folders that rankers are trained and scored on; `history` is cut in `known` alone."""

    uncut: Prepared
    cut: Prepared
    history: Path
    day: Prepared
    counts: dict[str, int]


def leakage(
    data: str | Path,
    train_before: str,
    test_through: str,
    options: LeakageOptions | None = None,
    json_path: Path | None = None,
) -> Result:
    """Prepares the log, trains the rankers that are not there yet, scores them, prints the tables.

    Args:
        data: a folder that a source knows, or "sim:<impressions>[,<name>=<value>...]".
        train_before: the first day that is not trained on, YYYY-MM-DD.
        test_through: the last day that is ranked.
        options: see `LeakageOptions`.
        json_path: also write the result there.

    Returns:
        tasks ({TASK: {auc: {NAME: AUC}, leaked, recoverable, net: {value, low, high}}}, AUCs as
        the module's text names them, means over seeds), seeds (each one's AUCs), sessions (counted
        over the test days; shares), planted (see `components.studies.leakage.planted`, None unless
        the log is simulated here), settings and versions.

    Raises:
        ValueError: a date, the ranker, the log or the configuration is wrong; one sentence.
        OSError: `json_path` cannot be written; before anything is trained.
    """
    options, data = options or LeakageOptions(), str(data)
    config = config_for(data, options.config).model_copy(update={"freshness": "immediate"})
    ranker_configs(config, (options.ranker,))  # refuses a name that is none, before any work
    if json_path is not None:
        check_writable(json_path)
    work = absolute(options.work or default_work(data))
    split = partial(Split, train_before=train_before, test_through=test_through, spec=config.spec)
    shards = _shards(data, work, split, config, options)
    runs = [
        _score(shards, _train(shards, work, config, options, seed), config.spec, options)
        for seed in range(options.seeds)
    ]
    settings = {
        **options.model_dump(mode="json", exclude={"work", "config"}),
        "data": absolute(data).name,
        "train_before": train_before,
        "test_through": test_through,
        "config": config.model_dump(mode="json"),
        "spec_hash": config.spec.hash,
    }
    result: Result = plain(
        {
            "name": "leakage",
            **_summary(runs, config.spec.task_names),
            "sessions": _shares(shards.counts),
            "planted": _planted(data, Layout.at(work), split(freshness="day")),
            "settings": settings,
            "versions": versions(),
        }
    )
    if json_path is not None:
        write_json(json_path, result)
    print_tables(result)
    return result


def _shards(
    data: str,
    work: Path,
    split: Callable[..., Split],
    config: DailyConfig,
    options: LeakageOptions,
) -> Shards:
    """The shards of the split, as they are, cut, and with freshness "day"."""
    layout = Layout.at(work)
    day = prepare(data, work, split(freshness="day"), config)
    uncut = prepare(data, work, split(freshness="immediate"), config)
    stages = Stages(layout.root / "stages")
    through = (split(freshness="day").train_through, layout.impression_days()[-1])
    folders = [
        _cut_stage(stages, layout, source, options.sessions, config.spec, last)
        for source, last in zip((uncut.train, uncut.test), through, strict=True)
    ]
    history = _cut_stage(stages, layout, uncut.test, options.sessions, config.spec, None)
    counts = stages.values[folders[1].name]
    cut = Prepared(train=folders[0], test=folders[1], stages=stages.values)
    return Shards(uncut=uncut, cut=cut, history=history, day=day, counts=counts)


def _cut_stage(
    stages: Stages,
    layout: Layout,
    source: Path,
    sessions: Sessions,
    spec: Spec,
    counters_through: str | None,
) -> Path:
    """Cuts a folder of shards unless these very shards were cut by this very code before.

    Counters are cut too where a last day of the log is given for them.
    """
    what = "history" if counters_through is None else "cut"
    target = source.with_name(f"{source.name}-{what}-{sessions}")
    shards = digest((source / CHECKSUMS).read_bytes(), 64)

    def work() -> dict[str, Any]:
        cut = SessionCut(spec=spec, sessions=sessions)
        if counters_through is not None:
            cut = cut.with_counters(layout, counters_through)
        return write_cut(source, target, cut)

    stages.run(target.name, shards, work, code=write_cut.__module__)
    return target


def _train(
    shards: Shards, work: Path, config: DailyConfig, options: LeakageOptions, seed: int
) -> dict[str, torch.nn.Module]:
    """The rankers of one seed by what they were trained on; trained ones are loaded.

    Those of uncut shards lie where a backtest of the same work folder keeps its own.
    """
    ranker = ranker_configs(config, (options.ranker,))[options.ranker]
    recipe = config.cold.model_copy(update={"seed": config.cold.seed + seed})
    text = ranker.model_dump_json() + recipe.model_dump_json()
    name = f"{options.ranker}-{digest(text, 8)}"
    device = this_device()
    kinds: tuple[tuple[str, Path, Freshness], ...] = (
        ("uncut", shards.uncut.train, "immediate"),
        ("cut", shards.cut.train, "immediate"),
        ("day", shards.day.train, "day"),
    )
    found: dict[str, torch.nn.Module] = {}
    for kind, train, freshness in kinds:
        folder = work / "models" / train.name.removeprefix("train-") / name
        run = TrainingRun(
            shards=train,
            out=folder,
            ranker=ranker,
            spec=config.spec,
            config=recipe,
            freshness=freshness,
        )
        fit(run)
        found[kind] = load_model(folder, config.spec)[0].to(device)
    return found


def _score(
    shards: Shards,
    rankers: Mapping[str, torch.nn.Module],
    spec: Spec,
    options: LeakageOptions,
) -> dict[str, npt.NDArray[np.float64]]:
    """AUCs `[K, 1 + resamples]` by name; the same members are drawn for all of them."""
    pairs = {
        "reported": ("uncut", shards.uncut.test),
        "history": ("uncut", shards.history),
        "served": ("uncut", shards.cut.test),
        "honest": ("cut", shards.cut.test),
        "day": ("day", shards.day.test),
    }
    found = {}
    for name, (ranker, folder) in pairs.items():
        auc = BootstrapAuc(len(spec.task_names), options.resamples)
        for batch in scored_batches(rankers[ranker], folder, spec):
            auc.update(batch.logits_RK, batch.rows.labels_RK, batch.member_R)
        found[name] = auc.auc()
    return found


def _summary(runs: list[dict[str, npt.NDArray[np.float64]]], tasks: tuple[str, ...]) -> Result:
    """AUCs and their differences, means over seeds resample by resample, and each seed's own."""
    mean = {name: np.mean([run[name] for run in runs], axis=0) for name in runs[0]}
    found: Result = {}
    for k, task in enumerate(tasks):
        found[task] = {"auc": {name: values[k, 0] for name, values in mean.items()}}
        for name, (one, other) in DIFFERENCES.items():
            found[task][name] = interval(mean[one][k] - mean[other][k])
    each = [
        {task: {name: run[name][k, 0] for name in run} for k, task in enumerate(tasks)}
        for run in runs
    ]
    return {"tasks": found, "seeds": each}


def _shares(counts: Mapping[str, int]) -> dict[str, float]:
    """The counts of the test shards, the share of sessions of many and of targets that are cut."""
    many = counts["sessions_of_many"] / counts["sessions"]
    return {
        **{n: counts[n] for n in ("targets", "known_cut", "sessions", "sessions_of_many")},
        "share_of_many": many,
        "share_cut": counts["known_cut"] / counts["targets"],
    }


def _planted(data: str, layout: Layout, split: Split) -> dict[str, dict[str, float]] | None:
    """What was planted on the test days of a simulated log; of any other nothing is known."""
    if not data.startswith(SIMULATED):
        return None
    return planted(layout, [split.spec.day_name(number) for number in split.test_days])
