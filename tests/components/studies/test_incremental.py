# SPDX-License-Identifier: Apache-2.0
"""Daily training on a small simulated log."""

import json
from dataclasses import replace

import pytest

from components.backtest.split import LogSplit
from components.studies.incremental import METHODS, DailyTraining, ModelChain, compare_daily
from components.studies.results import ResultsFile
from components.training.data import evaluation_batches
from feature_repo.specs import SIMULATOR
from kernels.loader import TARGET
from model.checkpoint import load_model
from tests.study_builders import CONFIG, kept_seeds, kept_setting, kept_studies

DAYS = ["2026-01-10", "2026-01-11", "2026-01-12"]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> DailyTraining:
    work = tmp_path_factory.mktemp("daily")
    results = ResultsFile(path=work / "study_daily.json", name="daily", setting={"data": "sim"})
    return DailyTraining(
        split=LogSplit(data="sim:4000", train_before=DAYS[0], test_through=DAYS[-1]),
        stale_days=2,
        config=CONFIG,
        work=work,
        results=results,
    )


@pytest.fixture(scope="module")
def rows(study) -> dict:
    compare_daily(study, 1)
    return json.loads(study.results.path.read_text())["rows"]


def test_every_day_has_every_method_and_the_first_day_only_one_model(study, rows) -> None:
    assert set(rows) == {f"{d}: {m}" for d in DAYS for m in METHODS} | {f"forgetting: {DAYS[0]}"}
    first = {json.dumps(rows[f"{DAYS[0]}: {m}"]["seeds"]["0"]["tasks"]) for m in METHODS}
    assert len(first) == 1
    last = {json.dumps(rows[f"{DAYS[2]}: {m}"]["seeds"]["0"]["tasks"]) for m in METHODS}
    assert len(last) == len(METHODS)


def test_a_warm_day_has_a_loss_on_the_day_before_alone(study, rows) -> None:
    chain = ModelChain(study, 0)
    shards = chain.prepare(DAYS[2], DAYS[0]).train
    targets = older = 0
    for _, packed in evaluation_batches(shards, SIMULATOR):
        day = SIMULATOR.day(packed.columns["event_time"])
        target = packed.columns["loss"] == TARGET
        assert (day[target] == SIMULATOR.day_number(DAYS[1])).all()
        targets += target.sum()
        older += (day < SIMULATOR.day_number(DAYS[1])).sum()
    assert targets > 0
    assert older > 0


def test_stale_starts_from_older_weights_than_warm(study, rows) -> None:
    chain = ModelChain(study, 0)
    starts = {}
    for method in ("warm", "stale"):
        _, record = load_model(chain.model(DAYS[2], method), SIMULATOR)
        starts[method] = record["inputs"]["start"]
    _, yesterday = load_model(chain.model(DAYS[1], "warm"), SIMULATOR)
    assert None not in starts.values()
    assert starts["warm"] != starts["stale"]
    assert yesterday["inputs"]["start"] == starts["stale"]  # both began with the first day's model


def test_what_is_done_is_not_done_again(study, rows, monkeypatch) -> None:
    monkeypatch.setattr("components.studies.incremental.train_timed", None)
    before = study.results.path.read_bytes()
    compare_daily(study, 1)
    assert study.results.path.read_bytes() == before


@pytest.mark.parametrize(
    ("days", "stale_days", "what"),
    [
        ((DAYS[0], DAYS[1]), 0, "not stale"),
        (("2030-01-01", "2030-01-02"), 2, "the log holds"),
    ],
)
def test_days_that_cannot_be_are_refused(study, days, stale_days, what) -> None:
    split = LogSplit(data="sim:4000", train_before=days[0], test_through=days[1])
    with pytest.raises(ValueError, match=what):
        compare_daily(replace(study, split=split, stale_days=stale_days), 1)


@pytest.mark.parametrize("path", kept_studies("incremental"), ids=lambda path: path.stem)
def test_a_kept_study_goes_on_where_it_was(path, tmp_path) -> None:
    """Every one of its chains has the fingerprint that it had."""
    split, config, setting = kept_setting(path)
    study = DailyTraining(
        split=split,
        stale_days=setting["stale_days"],
        config=config,
        work=tmp_path,
        results=ResultsFile(path=path, name="incremental", setting=setting),
    )
    for name, row, seed, result in kept_seeds(path):
        assert ModelChain(study, seed).fingerprint == result["fingerprint"], name
        assert row["day"] in study.days
