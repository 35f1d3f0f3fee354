# SPDX-License-Identifier: Apache-2.0
"""Small studies of a small simulated log, and the kept results as studies that go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.backtest.split import LogSplit
from components.studies.config import StudyConfig, study_config
from components.studies.contenders import Between, Contender
from components.studies.learners import TreeLearner
from components.studies.lightgbm.ranker import LightGBMConfig
from components.studies.results import ResultsFile
from components.studies.tuning import Comparison
from tests.loop_builders import small_config

KEPT = Path(__file__).parents[1] / "benchmarks" / "results"
SPLIT = LogSplit(data="sim:4000", train_before="2026-01-12", test_through="2026-01-13")
CHOOSING = replace(SPLIT, train_before="2026-01-11", test_through="2026-01-12")
TESTING = CHOOSING.following("2026-01-13")
CONFIG = study_config(small_config())
CONTENDERS = (
    Contender(
        name="feed_sr",
        title="Feed-SR",
        space={"ranker.head.width": (8, 24), "cold.learning_rate": Between(1e-4, 1e-2)},
    ),
    Contender(name="dcnv2", title="DCNv2", space={"cold.epochs": (1, 2)}),
    Contender(
        name="lightgbm",
        title="LightGBM",
        start=TreeLearner(LightGBMConfig(rounds=5, patience=2)),
        space={"ranker.num_leaves": (3, 7)},
    ),
)


def comparison(work: Path) -> Comparison:
    """Four trials of each contender, the best again with one more seed, two seeds of the test."""
    setting = {"data": "sim", "config": CONFIG.model_dump(mode="json")}
    return Comparison(
        choosing=CHOOSING,
        testing=TESTING,
        config=CONFIG,
        task="long_dwell",
        trials=4,
        choosing_seeds=2,
        seeds=2,
        work=work,
        results=ResultsFile(path=work / "study_compare.json", name="compare", setting=setting),
    )


def kept_studies(name: str) -> list[Path]:
    """The results of one kind of study that are kept with the benchmarks."""
    paths = sorted(KEPT.glob("study_*.json"))
    return [path for path in paths if json.loads(path.read_bytes())["name"] == name]


def kept_setting(path: Path) -> tuple[LogSplit, StudyConfig, dict[str, Any]]:
    """The split and the configuration that a kept study was started with, and its setting."""
    setting = json.loads(path.read_bytes())["setting"]
    through = setting.get("choose_through", setting["test_through"])
    split = LogSplit(
        data=setting["data"], train_before=setting["train_before"], test_through=through
    )
    return split, StudyConfig.model_validate({"dcnv2": {}, **setting["config"]}), setting


def kept_seeds(path: Path) -> Iterator[tuple[str, dict[str, Any], int, dict[str, Any]]]:
    """Each seed of a kept study: the row's name, the row, the seed's number and its result."""
    for name, row in json.loads(path.read_bytes())["rows"].items():
        for number, result in row["seeds"].items():
            yield name, row, int(number), result
