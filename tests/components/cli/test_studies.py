# SPDX-License-Identifier: Apache-2.0
"""The studies' commands reach the study that they name, with what they were given."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.backtest.backtest import BacktestOptions
from components.backtest.split import LogSplit
from components.studies.compare import CompareOptions
from components.studies.experiments import ABLATION
from components.studies.leakage.study import LeakageOptions
from tests.components.cli.conftest import Feedsr, StandIn

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
FIRST, LAST, LATER = "2026-01-09", "2026-01-10", "2026-01-12"
CUT = ("--data", "sim:900", "--train-before", FIRST, "--test-through", LAST)
SPLIT = LogSplit(data="sim:900", train_before=FIRST, test_through=LAST)
PLACES = ("--json", "out/r.json", "--work", "made", "--config", "kuairand")
NAMED = {"config": "kuairand", "path": Path("out/r.json"), "work": Path("made")}
UNNAMED = {
    "config": "",
    "path": Path("runs/studies/study_{}_simulator.json"),
    "work": Path("runs/studies"),
}


def unnamed(study: str) -> dict[str, Any]:
    """What a study is given where nothing was named."""
    return {**UNNAMED, "path": Path(str(UNNAMED["path"]).format(study))}


def test_a_backtest_is_given_what_was_named(feedsr: Feedsr, stand_in: StandIn) -> None:
    calls = stand_in("components.backtest.backtest.backtest")
    assert feedsr("backtest", *CUT).status == 0
    words = ["--rankers", "dcnv2, feed_sr", "--freshness", "30m", "--seeds", "3", *PLACES]
    assert feedsr("backtest", *CUT, *words).status == 0
    chosen = BacktestOptions(
        rankers=("dcnv2", "feed_sr"),
        freshness="30m",
        seeds=3,
        config="kuairand",
        work=Path("made"),
    )
    assert calls == [
        {"split": SPLIT, "options": BacktestOptions(), "json_path": None},
        {"split": SPLIT, "options": chosen, "json_path": Path("out/r.json")},
    ]


def test_leakage_is_given_what_was_named(feedsr: Feedsr, stand_in: StandIn) -> None:
    calls = stand_in("components.studies.leakage.study.leakage")
    assert feedsr("leakage", *CUT).status == 0
    words = ["--sessions", "pause", "--ranker", "dcnv2", "--seeds", "2", *PLACES]
    assert feedsr("leakage", *CUT, *words).status == 0
    chosen = LeakageOptions(
        sessions="pause", ranker="dcnv2", seeds=2, config="kuairand", work=Path("made")
    )
    assert calls == [
        {"split": SPLIT, "options": LeakageOptions(), "json_path": None},
        {"split": SPLIT, "options": chosen, "json_path": Path("out/r.json")},
    ]


def test_the_ablation_is_of_the_parts_that_are_named(feedsr: Feedsr, stand_in: StandIn) -> None:
    calls = stand_in("components.studies.ablate.run", 0)
    assert feedsr("ablate", *CUT).status == 0
    assert feedsr("ablate", *CUT, "--parts", "positions, head", "--seeds", "2", *PLACES).out == ""
    whole, part = (call.pop("experiments") for call in calls)
    assert {e.part for e in whole} == {e.part for e in ABLATION if "simulator" in e.logs}
    assert {e.part for e in part} == {"positions", "head"}
    assert calls == [
        {"split": SPLIT, "seeds": 1, **unnamed("ablate")},
        {"split": SPLIT, "seeds": 2, **NAMED},
    ]


def test_what_others_hold_is_told(feedsr: Feedsr, stand_in: StandIn) -> None:
    left = "2 are being done by another process; run again when it is through\n"
    for study in ("ablate", "scaling"):
        stand_in(f"components.studies.{study}.run", 2)
        assert feedsr(study, *CUT).out == left


def test_a_comparison_is_chosen_and_tested_on_the_days_that_are_named(
    feedsr: Feedsr, stand_in: StandIn
) -> None:
    calls = stand_in("components.studies.compare.run", 0)
    days = ["--choose-through", LAST, "--test-through", LATER]
    cut = ["--data", "sim:900", "--train-before", FIRST, *days]
    assert feedsr("compare", *cut).status == 0
    words = ["--rankers", "feed_sr,dcnv2", "--trials", "3", "--choosing-seeds", "2"]
    words += ["--seeds", "4", "--freshness", "immediate", *PLACES]
    assert feedsr("compare", *cut, *words).status == 0
    given = {"choosing": SPLIT, "test_through": LATER}
    chosen = CompareOptions(
        rankers=["feed_sr", "dcnv2"],
        trials=3,
        choosing_seeds=2,
        seeds=4,
        freshness="immediate",
        config="kuairand",
    )
    usual = {**given, "options": CompareOptions(rankers=[]), **unnamed("compare-day")}
    named = {**given, "options": chosen, **NAMED}
    assert calls == [{k: v for k, v in c.items() if k != "config"} for c in (usual, named)]


def test_days_are_trained_from_the_first_to_the_last(feedsr: Feedsr, stand_in: StandIn) -> None:
    calls = stand_in("components.studies.incremental.run")
    cut = ["--data", "sim:900", "--first-day", FIRST, "--last-day", LAST]
    assert feedsr("incremental", *cut).status == 0
    assert feedsr("incremental", *cut, "--stale-days", "5", "--seeds", "2", *PLACES).status == 0
    assert calls == [
        {"split": SPLIT, "stale_days": 3, "seeds": 1, **unnamed("incremental")},
        {"split": SPLIT, "stale_days": 5, "seeds": 2, **NAMED},
    ]


def test_sizes_are_trained_on_the_log_that_is_named(feedsr: Feedsr, stand_in: StandIn) -> None:
    calls = stand_in("components.studies.scaling.run", 0)
    assert feedsr("scaling", *CUT).out == ""
    assert feedsr("scaling", *CUT, "--seeds", "2", *PLACES).out == ""
    assert calls == [
        {"split": SPLIT, "seeds": 1, **unnamed("scaling")},
        {"split": SPLIT, "seeds": 2, **NAMED},
    ]


def test_pages_and_the_figure_are_rendered_from_results(feedsr: Feedsr, tmp_path: Path) -> None:
    study = "study_scaling_simulator.json"
    folder = tmp_path / "results"
    folder.mkdir()
    shutil.copyfile(RESULTS / study, folder / study)
    page, plain = tmp_path / "page.md", tmp_path / "plain.md"
    page.write_text("# A\n<!-- table scaling_simulator click -->\n<!-- end -->\n")
    plain.write_text("# B\n")
    figure = tmp_path / "scaling.svg"
    words = ["--folder", folder, "--pages", f"{page},{plain}", "--figure", figure]
    told = feedsr("results", *words).out
    assert told == f"{page}: rendered\n{plain}: as it was\n{figure}: drawn\n"
    assert "|" in page.read_text()
    assert figure.read_text().endswith("</svg>\n")
    assert f"{page}: as it was\n" in feedsr("results", *words).out


def test_without_results_of_sizes_no_figure_is_drawn(feedsr: Feedsr, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n")
    words = ["--folder", tmp_path, "--pages", page, "--figure", tmp_path / "f.svg"]
    assert feedsr("results", *words).out == f"{page}: as it was\n"
    assert not (tmp_path / "f.svg").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["backtest", *CUT, "--freshness", "later"], "freshness is 'later', want one of day, 30m"),
        (["backtest", *CUT, "--rankers", "bert"], "'bert'"),
        (["backtest", *CUT, "--data", "nowhere"], "there is no folder nowhere"),
        (["backtest", *CUT, "--train-before", "monday"], "'monday' is not a day"),
        (["leakage", *CUT, "--sessions", "days"], "sessions is 'days', want one of logged, pause"),
        (["ablate", *CUT, "--parts", "heads"], "there is no part 'heads'; have "),
        (["ablate", *CUT, "--data", "nowhere"], "there is no folder nowhere"),
        (["scaling", *CUT, "--data", "sim:"], "'sim:' is no simulated log"),
        (["results", "--pages", "none.md"], "none.md: no such file or directory"),
    ],
)
def test_a_mistake_is_one_sentence(feedsr: Feedsr, words: list[str], told: str) -> None:
    assert told in feedsr(*words).sentence


def test_results_that_cannot_be_written_are_told_before_anything_runs(
    feedsr: Feedsr, stand_in: StandIn, tmp_path: Path
) -> None:
    calls = stand_in("components.studies.scaling.run", 0)
    (tmp_path / "file").write_text(json.dumps({}))
    told = feedsr("scaling", *CUT, "--json", tmp_path / "file" / "r.json").sentence
    assert told.startswith(f"{tmp_path}/file")
    assert calls == []
