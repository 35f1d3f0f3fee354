# SPDX-License-Identifier: Apache-2.0
"""The commands of the loop reach what they name, with what they were given, in the day's order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.layout.files import write_json
from components.layout.paths import Layout
from components.loop.daily import DayResult
from components.loop.steps import ORDER, STEPS
from components.loop.submit import Target
from tests.components.cli.conftest import Feedsr, StandIn
from tests.loop_builders import tiny_log
from tests.retention_builders import logged
from tests.writer_builders import holder

DAY = "2026-01-05"
REPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "features": ({"days": 3, "views": 2}, "days 3, views 2"),
    "histories": ({"days": 3}, "days 3"),
    "materialize": ({"store": "sqlite"}, "store sqlite"),
    "sequences": ({"after": "", "through": DAY}, f"through {DAY}"),
    "evaluate": ({"feed_sr click AUC": 0.7}, "feed_sr click AUC 0.7"),
    "gate": ({"verdict": "refused", "because": "too low"}, "refused - too low"),
    "parity": ({"requests": 6}, "requests 6"),
    "register": ({"version": "v1"}, "version v1"),
    "report": ({"report": ""}, "nothing to report"),
}
"""What steps that take long report, and how that is told."""


def test_the_commands_are_in_the_day_s_order(feedsr: Feedsr) -> None:
    text = feedsr("--help").out
    day = [step.partition("-")[0] for step in ORDER if step != "promote"]
    places = [text.index(f"\n  {step} ") for step in day]
    assert places == sorted(places)
    assert {*day, "promote"} == set(STEPS)


@pytest.mark.parametrize("step", REPORTED)
def test_a_step_is_run_on_the_root_and_day_that_are_named(
    feedsr: Feedsr, stand_in: StandIn, tmp_path: Path, step: str
) -> None:
    values, told = REPORTED[step]
    calls = stand_in("components.loop.steps.run_step", values)
    words = [step, "--root", tmp_path / "root", "--day", DAY, "--config", "kuairand"]
    assert feedsr(*words).out == f"{step} {DAY}: {told}\n"
    root = str(tmp_path / "root")
    assert calls == [{"name": step, "root": root, "day": DAY, "config": "kuairand"}]


@pytest.mark.parametrize(("words", "ranker"), [([], "feed_sr"), (["--ranker", "dcnv2"], "dcnv2")])
def test_a_ranker_is_trained_on_the_log_s_last_day(
    feedsr: Feedsr, stand_in: StandIn, tmp_path: Path, words: list[str], ranker: str
) -> None:
    last = tiny_log(tmp_path, days=3).raw_days()[-1]
    calls = stand_in("components.loop.steps.run_step", {"start": "models/x"})
    assert feedsr("train", *words, "--root", tmp_path).out == f"train {last}: warm\n"
    assert calls[0]["arguments"] == {"ranker": ranker}
    assert (calls[0]["day"], calls[0]["config"]) == (last, "demo")


def test_a_log_is_ingested(feedsr: Feedsr, tmp_path: Path) -> None:
    days = tiny_log(tmp_path, days=2).raw_days()
    ended = feedsr("ingest", "--root", tmp_path)
    assert ended.status == 0
    assert ended.out.startswith(f"ingest {days[1]}: 2 days, ")
    assert Layout.at(tmp_path).impression_days() == days


def test_a_day_is_run_and_its_verdict_told(
    feedsr: Feedsr, stand_in: StandIn, tmp_path: Path
) -> None:
    report = tmp_path / "report.html"
    day = DayResult(day=DAY, verdict="passed", version="v1", report=report, seconds={})
    calls = stand_in("components.loop.daily.daily", day)
    ended = feedsr("daily", "--root", tmp_path, "--day", DAY, "--config", "kuairand")
    assert ended.out == f"{DAY}: the gate passed the model; report: {report}\n"
    assert calls == [{"layout": Layout.at(tmp_path), "day": DAY, "config": "kuairand"}]


def test_the_demo_is_given_what_was_named(feedsr: Feedsr, stand_in: StandIn) -> None:
    calls = stand_in("components.loop.demo.demo")
    assert feedsr("demo").status == 0
    words = ["--data", "log", "--days", "5", "--root", "there", "--config", "mine.json"]
    assert feedsr("demo", *words).status == 0
    assert calls == [
        {"data": None, "days": 9, "root": None, "config": ""},
        {"data": Path("log"), "days": 5, "root": Path("there"), "config": "mine.json"},
    ]


def test_the_pipeline_is_compiled_where_asked(feedsr: Feedsr, tmp_path: Path) -> None:
    out = tmp_path / "build" / "pipeline.yaml"
    assert feedsr("pipeline", "--out", out).out == f"{out}\n"
    assert "feedsr-daily" in out.read_text()


def test_a_run_is_submitted_to_the_service_that_is_named(
    feedsr: Feedsr, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = stand_in("components.loop.submit.submit", "run-7")
    assert feedsr("submit").out == "run-7\n"
    monkeypatch.setenv("FEEDSR_KFP_HOST", "http://there:1")
    monkeypatch.setenv("FEEDSR_KFP_NAMESPACE", "ours")
    words = ["--day", DAY, "--service-account", "robot", "--config", "kuairand"]
    assert feedsr("submit", *words).status == 0
    here = Target(host="http://127.0.0.1:8888", namespace="feedsr", service_account="feedsr-daily")
    there = Target(host="http://there:1", namespace="ours", service_account="robot")
    assert calls == [
        {"day": "yesterday", "config": "demo", "target": here},
        {"day": DAY, "config": "kuairand", "target": there},
    ]


def test_a_prune_says_what_would_go_and_then_what_went(feedsr: Feedsr, tmp_path: Path) -> None:
    layout, days = logged(tmp_path / "root", seed=2)
    for day in days[-2:]:
        write_json(layout.sequences("train", day) / "checksums.json", {})
    words = ["prune", "--keep-days", 1, "--root", layout.root]
    would = feedsr(*words, "--dry-run").out
    assert would.splitlines()[:2] == [
        "features are kept: the next run starts cold, as no model is in production",
        f"kept from {days[-1]} on",
    ]
    assert "would go         files             bytes" in would
    assert "sequences            1                 3" in would
    assert len(list(layout.root.glob("sequences/*"))) == 2
    assert feedsr(*words).out == would.replace("would go", "gone    ")
    assert list(layout.root.glob("sequences/*")) == [layout.sequences("train", days[-1])]
    with holder(layout.root):
        assert "is being written to by" in feedsr(*words).sentence
        assert feedsr(*words, "--dry-run").status == 0, "who only looks waits for nobody"


def test_a_service_that_is_not_there_is_one_sentence(feedsr: Feedsr) -> None:
    ended = feedsr("submit", "--day", DAY, "--host", "http://127.0.0.1:9")
    assert f"http://127.0.0.1:9 did not take the run of {DAY}" in ended.sentence


def test_the_wait_for_a_service_is_told(feedsr: Feedsr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDSR_PROGRESS", "lines")
    told, _ = feedsr("submit", "--day", DAY, "--host", "http://127.0.0.1:9").err.splitlines()
    assert told == f"handing {DAY} to http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["daily"], "there is no log under"),
        (["ingest", "--day", DAY], f"no log of {DAY}"),
        (["gate", "--day", DAY], f"run feedsr evaluate --day {DAY} first"),
        (["gate", "--day", "yesterday"], "'yesterday' is not a day"),
        (["train", "--ranker", "bert"], "there is no ranker 'bert'; have feed_sr, dcnv2"),
        (["evaluate", "--day", DAY, "--config", "x"], "there is no configuration 'x'"),
        (["prune", "--keep-days", "3"], "has no ingested day, so there is nothing to prune"),
        (["demo", "--data", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_a_mistake_is_one_sentence(
    feedsr: Feedsr, tmp_path: Path, words: list[str], told: str
) -> None:
    assert told in feedsr(*words, "--root", tmp_path).sentence
