# SPDX-License-Identifier: Apache-2.0
"""A backtest from its log to its table: what the result says, and that nothing is done twice."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.backtest.backtest import BacktestOptions, backtest
from components.backtest.split import LogSplit
from feature_repo.specs import SIMULATOR
from tests.loop_builders import small_config

SPLIT = LogSplit(data="sim:4000", train_before="2026-01-12", test_through="2026-01-13")


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> BacktestOptions:
    work = tmp_path_factory.mktemp("backtest")
    (work / "small.json").write_text(small_config().model_dump_json())
    return BacktestOptions(config=str(work / "small.json"), seeds=2, work=work)


@pytest.fixture(scope="module")
def result(options) -> dict:
    return backtest(SPLIT, options, options.work / "result.json")


def no_constant(name: str) -> None:
    pytest.fail(f"{name} is no JSON")


def test_the_result_has_every_ranker_and_task_and_says_how_it_was_made(result, options) -> None:
    text = (options.work / "result.json").read_text()
    assert json.loads(text, parse_constant=no_constant) == result
    assert set(result["rankers"]) == {"feed_sr", "dcnv2"}
    for tasks in result["rankers"].values():
        assert set(tasks) == set(SIMULATOR.task_names)
        for figures in tasks.values():
            assert set(figures) == {"auc", "log_loss", "ece", "n", "positives"}
    settings = result["settings"]
    assert {name: settings[name] for name in vars(SPLIT)} == vars(SPLIT)
    assert settings["config"]["freshness"] == "day"
    assert settings["seeds"] == 2
    assert settings["spec_hash"] == SIMULATOR.hash
    assert set(result) == {
        "rankers",
        "spread",
        "segments",
        "within_member",
        "seeds",
        "seconds",
        "stages",
        "settings",
        "versions",
    }


def test_each_seed_is_another_training(result) -> None:
    assert [seed["seed"] for seed in result["seeds"]] == [0, 1]
    each = [seed["rankers"]["feed_sr"]["click"]["auc"] for seed in result["seeds"]]
    assert each[0] != each[1]
    assert result["rankers"]["feed_sr"]["click"]["auc"] == pytest.approx(np.mean(each))
    assert set(result["seconds"]) == {"0", "1"}


def test_the_test_rows_are_those_of_the_test_days(result) -> None:
    test = result["stages"]["test-2026-01-12-2026-01-13-day"]
    assert result["rankers"]["dcnv2"]["skip"]["n"] == test["targets"] > 0


def test_a_second_run_reuses_every_stage_and_gives_the_same(result, options) -> None:
    kinds = ("*.arrow", "*.safetensors")
    paths = [path for kind in kinds for path in options.work.rglob(kind)]
    before = {path: path.stat().st_mtime_ns for path in paths}
    again = backtest(SPLIT, options)
    assert again["rankers"] == result["rankers"]
    assert {path: path.stat().st_mtime_ns for path in paths} == before
    assert len(list(options.work.rglob("*.safetensors"))) == 4


@pytest.mark.parametrize(
    ("split", "options", "sentence"),
    [
        ({"train_before": "2026-01-01"}, {}, "the log holds 2026-01-05 to 2026-01-13"),
        ({"test_through": "2026-03-01"}, {}, "2026-03-01 is not after the last"),
        ({}, {"rankers": ("feed_sr", "lgbm")}, "'lgbm'; have feed_sr, dcnv2"),
        ({}, {"rankers": ()}, "name at least one ranker"),
        ({}, {"freshness": "hour"}, "want one of day, 30m, immediate"),
        ({}, {"seeds": 0}, "seeds is 0"),
        ({"data": "/nowhere"}, {}, "there is no folder /nowhere"),
        ({}, {"config": "big"}, "there is no configuration 'big'"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path_factory, split, options, sentence) -> None:
    work = tmp_path_factory.getbasetemp() / "mistakes"
    with pytest.raises(ValueError, match=sentence) as error:
        backtest(replace(SPLIT, **split), BacktestOptions(**{"work": work, **options}))
    assert "\n" not in str(error.value)


def test_a_result_that_cannot_be_written_is_told_before_any_work(tmp_path) -> None:
    (tmp_path / "file").touch()
    options = BacktestOptions(work=tmp_path / "work")
    with pytest.raises(OSError, match="file"):
        backtest(SPLIT, options, Path(tmp_path / "file" / "result.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
