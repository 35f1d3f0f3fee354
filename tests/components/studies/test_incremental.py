# SPDX-License-Identifier: Apache-2.0
"""Daily training on a small simulated log."""

import json
import math
from dataclasses import replace

import pytest

from components.studies.config import study_config
from components.studies.incremental import METHODS, DailyTraining, _Chain, compare_daily
from components.studies.intervals import mean_difference
from components.studies.results import ResultsFile
from components.studies.trial import Log
from components.training.data import evaluation_batches
from feature_repo.specs import SIMULATOR
from kernels.loader import TARGET
from model.checkpoint import load_model
from tests.loop_builders import small_config

CONFIG = study_config(small_config())
DAYS = ["2026-01-10", "2026-01-11", "2026-01-12"]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> DailyTraining:
    work = tmp_path_factory.mktemp("daily")
    results = ResultsFile(path=work / "study_daily.json", name="daily", setting={"data": "sim"})
    return DailyTraining(
        log=Log(data="sim:4000", train_before=DAYS[0], test_through=DAYS[-1]),
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
    chain = _Chain(study, 0)
    shards = chain._prepared(DAYS[2], DAYS[0]).train
    targets = older = 0
    for _, packed in evaluation_batches(shards, SIMULATOR):
        day = SIMULATOR.day(packed.columns["event_time"])
        here = packed.columns["loss"] == TARGET
        assert (day[here] == SIMULATOR.day_number(DAYS[1])).all()
        targets += here.sum()
        older += (day < SIMULATOR.day_number(DAYS[1])).sum()
    assert targets > 0
    assert older > 0


def test_stale_starts_from_older_weights_than_warm(study, rows) -> None:
    chain = _Chain(study, 0)
    starts = {}
    for method in ("warm", "stale"):
        _, record = load_model(chain.model(DAYS[2], method), SIMULATOR)
        starts[method] = record["inputs"]["start"]
    _, yesterday = load_model(chain.model(DAYS[1], "warm"), SIMULATOR)
    assert None not in starts.values()
    assert starts["warm"] != starts["stale"]
    assert yesterday["inputs"]["start"] == starts["stale"]  # both began with the first day's model


def test_what_is_done_is_not_done_again(study, rows, monkeypatch) -> None:
    monkeypatch.setattr("components.studies.incremental.fit", None)
    before = study.results.path.read_bytes()
    compare_daily(study, 1)
    assert study.results.path.read_bytes() == before


@pytest.mark.parametrize(
    ("days", "stale_days", "what"),
    [
        ((DAYS[0], "2026-01-01"), 2, "no day from"),
        ((DAYS[0], DAYS[1]), 0, "not stale"),
        (("yesterday", DAYS[1]), 2, "not a day"),
        (("2030-01-01", "2030-01-02"), 2, "the log holds"),
    ],
)
def test_days_that_cannot_be_are_refused(study, days, stale_days, what) -> None:
    log = Log(data="sim:4000", train_before=days[0], test_through=days[1])
    wrong = replace(study, log=log, stale_days=stale_days)
    with pytest.raises(ValueError, match=what):
        compare_daily(wrong, 1)


def test_a_mean_over_days_has_an_interval_and_waits_for_the_seeds_of_every_day() -> None:
    def row(*pairs: tuple[float | None, float | None]) -> dict:
        return {"seeds": {str(n): {"difference": {"click": pair}} for n, pair in enumerate(pairs)}}

    days = [row((0.01, 0.003), (0.03, 0.003)), row((0.02, 0.004), (0.04, 0.004), (0.9, 0.1))]
    found = mean_difference(days, "click")
    assert found.mean == pytest.approx(0.025)
    # members: (.003**2 + .004**2) / 4; seeds: the variance of .015 and .035, over two
    assert found.half == pytest.approx(1.96 * math.sqrt(0.0025**2 + 0.0002 / 2), rel=1e-3)
    for nothing in ([], [row((None, None))], [row()]):
        assert math.isnan(mean_difference(nothing, "click").mean)
