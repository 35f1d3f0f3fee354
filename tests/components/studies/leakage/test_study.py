# SPDX-License-Identifier: Apache-2.0
"""Same-session feedback is found where it was planted, below its bound, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from components.backtest.backtest import BacktestOptions, backtest
from components.backtest.split import LogSplit
from components.cli.main import app
from components.config import DailyConfig, TrainConfig
from components.layout.paths import Layout
from components.log.sources import SimulatorConfig, simulate
from components.studies.leakage.mood import mood_aucs
from components.studies.leakage.study import LeakageOptions, leakage
from feature_repo.specs import SIMULATOR
from model import DCNv2Config, FeedSRConfig, HeadConfig

BEFORE, THROUGH = "2026-01-11", "2026-01-13"
TEST_DAYS = ("2026-01-11", "2026-01-12", "2026-01-13")
SMALL = LogSplit(data="sim:2000", train_before="2026-01-12", test_through="2026-01-13")
HEAD = HeadConfig(name="mlp", width=32, hidden=1)
CONFIG = DailyConfig(
    spec_name="simulator",
    feed_sr=FeedSRConfig(width=16, layers=1, heads=1, head=HEAD),
    dcnv2=DCNv2Config(head=HEAD),
    cold=TrainConfig(global_batch=8, micro_batch=8, epochs=3, learning_rate=3e-3),
)
FEED = SimulatorConfig(
    impressions=20_000,
    members=250,
    interest_gain=0.0,
    favourite_gain=0.0,
    quality=0.0,
    member_bias=0.0,
    freshness_gain=4.0,
)
"""Members and posts are all alike but for the post's age, which is a feature: feedback can tell the
visit's mood and nothing else. Where members differ it tells who they are too, without any mood.
"""


def own_log(root: Path, config: SimulatorConfig) -> Path:
    """A simulated log as a folder of Parquet that `feedsr import` takes, its truth beside it."""
    layout = Layout.at(root / "simulated")
    simulate(layout, config)
    folder = root / "log"
    folder.mkdir()
    for day in layout.raw_days():
        layout.raw_day(day).rename(folder / f"impressions-{day}.parquet")
    for path in (layout.raw_posts, layout.raw_members):
        path.rename(folder / path.name)
    return folder


def split_of(data: Path | str) -> LogSplit:
    return LogSplit(data=str(data), train_before=BEFORE, test_through=THROUGH)


def measured(root: Path, **changes: float) -> tuple[dict, dict, Path]:
    """The result on a log with these changes, and what was planted in it."""
    root.mkdir()
    log = own_log(root, FEED.model_copy(update=changes))
    (root / "small.json").write_text(CONFIG.model_dump_json())
    options = LeakageOptions(sessions="pause", config=str(root / "small.json"), work=root / "work")
    result = leakage(split_of(log), options, root / "result.json")
    return result, mood_aucs(Layout.at(root / "simulated"), TEST_DAYS), root


@pytest.fixture(scope="module")
def moody(tmp_path_factory):  # type: ignore[no-untyped-def]
    return measured(tmp_path_factory.mktemp("leak") / "moody", mood=2.0)


@pytest.fixture(scope="module")
def even(tmp_path_factory):  # type: ignore[no-untyped-def]
    return measured(tmp_path_factory.mktemp("leak") / "even", mood=0.0)


@pytest.mark.slow
def test_a_planted_mood_is_found_below_its_bound(moody) -> None:  # type: ignore[no-untyped-def]
    result, truth, _ = moody
    for task in ("click", "long_dwell"):
        leaked = result["tasks"][task]["leaked"]
        assert 0 < leaked["low"] < leaked["value"] < leaked["high"]
        assert 0.3 * truth[task]["revealed"] < leaked["value"] < truth[task]["revealed"]
        assert truth[task]["revealed"] < truth[task]["planted"]
        assert result["tasks"][task]["net"]["low"] > 0


@pytest.mark.slow
def test_without_a_mood_nothing_is_found(even) -> None:  # type: ignore[no-untyped-def]
    result, truth, _ = even
    assert truth["click"]["planted"] == 0
    for task in ("click", "long_dwell"):
        leaked = result["tasks"][task]["leaked"]
        assert leaked["low"] <= 0 <= leaked["high"]
        assert leaked["high"] - leaked["low"] < 0.03


@pytest.mark.slow
def test_differences_are_of_the_aucs_and_the_file_holds_the_result(moody) -> None:  # type: ignore[no-untyped-def]
    result, _, root = moody
    assert json.loads((root / "result.json").read_text()) == result
    assert set(result["tasks"]) == set(SIMULATOR.task_names)
    for task, figures in result["tasks"].items():
        auc = figures["auc"]
        assert figures["leaked"]["value"] == pytest.approx(auc["reported"] - auc["served"])
        assert figures["recoverable"]["value"] == pytest.approx(auc["honest"] - auc["served"])
        assert figures["net"]["value"] == pytest.approx(auc["reported"] - auc["honest"])
        assert result["seeds"][0][task] == auc
    click = result["tasks"]["click"]["auc"]
    assert click["history"] > click["served"]
    counts = result["sessions"]
    assert counts["share_of_many"] > 0.9
    assert 0.2 < counts["share_cut"] < 0.7
    assert result["planted"] is None


@pytest.mark.slow
def test_a_second_run_trains_nothing_and_gives_the_same(moody, capsys) -> None:  # type: ignore[no-untyped-def]
    result, _, root = moody
    made = {p: p.stat().st_mtime_ns for p in (root / "work").rglob("*.safetensors")}
    shards = {p: p.stat().st_mtime_ns for p in (root / "work").rglob("*.arrow")}
    options = LeakageOptions(sessions="pause", config=str(root / "small.json"), work=root / "work")
    again = leakage(split_of(root / "log"), options)
    assert again == result
    assert len(made) == 3
    assert {p: p.stat().st_mtime_ns for p in (root / "work").rglob("*.safetensors")} == made
    assert {p: p.stat().st_mtime_ns for p in (root / "work").rglob("*.arrow")} == shards
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("long_dwell") for line in lines)
    assert "planted" not in "".join(lines)


def test_requests_that_are_sessions_leak_exactly_nothing(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    """On the simulator's log a session is a request; the truth is reported beside it."""
    quick = CONFIG.model_copy(update={"cold": TrainConfig(global_batch=64, micro_batch=64)})
    (tmp_path / "quick.json").write_text(quick.model_dump_json())
    options = LeakageOptions(
        config=str(tmp_path / "quick.json"), work=tmp_path / "work", ranker="dcnv2", seeds=2
    )
    result = leakage(SMALL, options)
    assert result["sessions"]["known_cut"] == 0
    for figures in result["tasks"].values():
        auc = figures["auc"]
        assert auc["served"] == auc["reported"] == auc["honest"]
        assert set(figures["leaked"].values()) == {0.0}
    each = [seed["click"]["reported"] for seed in result["seeds"]]
    assert each[0] != each[1]
    assert result["tasks"]["click"]["auc"]["reported"] == pytest.approx(np.mean(each))
    truth = result["planted"]["click"]
    assert 0 < truth["revealed"] < truth["planted"]
    told = " ".join(capsys.readouterr().out.split())
    assert "nothing to cut" in told
    assert "revealed" in told


def test_a_backtest_of_the_same_folder_trains_the_uncut_ranker_once(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "small.json").write_text(CONFIG.model_dump_json())
    same: dict = {"config": str(tmp_path / "small.json"), "work": tmp_path / "work"}
    for freshness in ("immediate", "day"):
        backtest(SMALL, BacktestOptions(rankers=("dcnv2",), freshness=freshness, **same))  # type: ignore[arg-type]
    result = leakage(SMALL, LeakageOptions(ranker="dcnv2", **same))
    assert len(list((tmp_path / "work").rglob("*.safetensors"))) == 3
    for name, freshness in (("reported", "immediate"), ("day", "day")):
        options = BacktestOptions(rankers=("dcnv2",), freshness=freshness, **same)  # type: ignore[arg-type]
        claimed = backtest(SMALL, options)["rankers"]["dcnv2"]
        for task in ("click", "skip", "long_dwell"):
            auc = result["tasks"][task]["auc"][name]
            assert auc == pytest.approx(claimed[task]["auc"], abs=1e-3)


@pytest.mark.parametrize(
    ("data", "options", "sentence"),
    [
        ("/nowhere", {}, "there is no folder"),
        ("sim:2000", {"ranker": "lgbm"}, "there is no ranker 'lgbm'"),
        ("sim:2000", {"config": "big"}, "there is no configuration 'big'"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, data, options, sentence) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=sentence) as error:
        leakage(split_of(data), LeakageOptions(work=tmp_path, **options))
    assert "\n" not in str(error.value)


def test_the_command_is_there_and_refuses_what_it_does_not_know() -> None:
    run = CliRunner().invoke
    told = run(app, ["leakage", "--help"])
    assert told.exit_code == 0
    assert "same-session feedback" in told.stdout
    words = ["leakage", "--data", "sim:9", "--train-before", BEFORE, "--test-through", THROUGH]
    refused = run(app, [*words, "--sessions", "day"])
    assert str(refused.exception) == "sessions is 'day', want one of logged, pause"


@pytest.mark.parametrize(
    "wrong", [{"seeds": 0}, {"resamples": 3}, {"sessions": "day"}, {"misspelt": 1}]
)
def test_wrong_options_are_refused(wrong) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="validation error"):
        LeakageOptions.model_validate(wrong)
