# SPDX-License-Identifier: Apache-2.0
"""Any log comes as far as shards, each stage once, under the configuration that fits it."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from components.backtest.prepare import config_for, default_work, prepare
from components.backtest.split import LogSplit
from components.config import PROFILES
from components.training.data import evaluation_batches
from feature_repo.spec import FRESHNESS
from feature_repo.specs import SIMULATOR
from tests.components.log.sources.test_parquet import write_own
from tests.loop_builders import small_config

SPLIT = LogSplit(data="sim:4000", train_before="2026-01-12", test_through="2026-01-13")
CONFIG = small_config()


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("prepare")


def written(work: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}


def test_what_is_there_is_not_made_again(work) -> None:
    first = prepare(SPLIT, work, CONFIG)
    before = written(work)
    assert prepare(SPLIT, work, CONFIG) == first
    assert written(work) == before
    assert first.train.name == "train-2026-01-12-day"
    assert first.test.name == "test-2026-01-12-2026-01-13-day"
    assert {"import", "ingest", first.train.name, first.test.name} <= set(first.stages)
    assert first.stages["ingest"]["kept"] > 0


def test_a_watermark_and_another_split_have_shards_of_their_own(work) -> None:
    first = prepare(SPLIT, work, CONFIG)
    warm = prepare(SPLIT, work, CONFIG, "2026-01-10")
    earlier = prepare(replace(SPLIT, train_before="2026-01-11"), work, CONFIG)
    assert len({first.train, warm.train, earlier.train}) == 3
    assert first.test == warm.test != earlier.test
    assert warm.stages[warm.train.name]["targets"] < first.stages[first.train.name]["targets"]


def test_other_freshness_makes_other_shards_and_sees_more(work) -> None:
    known = {}
    for freshness in FRESHNESS:
        fresh = CONFIG.model_copy(update={"freshness": freshness})
        test = prepare(SPLIT, work, fresh).test
        batches = evaluation_batches(test, SIMULATOR)
        known[freshness] = sum(packed.columns["known"].sum() for _, packed in batches)
    assert known["day"] < known["30m"] < known["immediate"]


def test_another_log_in_the_folder_replaces_what_was_ingested(tmp_path) -> None:
    small = replace(SPLIT, data="sim:1000")
    kept = {}
    for split in (small, SPLIT, small):
        kept.setdefault(split.data, []).append(
            prepare(split, tmp_path, CONFIG).stages["ingest"]["kept"]
        )
    assert kept["sim:1000"][0] == kept["sim:1000"][1] < kept["sim:4000"][0]


@pytest.mark.parametrize(
    ("days", "sentence"),
    [
        (("2026-01-05", "2026-01-13"), "the log holds 2026-01-05 to 2026-01-13"),
        (("2026-01-12", "2026-03-01"), "2026-03-01 is not after the last"),
    ],
)
def test_days_that_the_log_lacks_are_one_sentence(work, days, sentence) -> None:
    split = replace(SPLIT, train_before=days[0], test_through=days[1])
    with pytest.raises(ValueError, match=sentence) as error:
        prepare(split, work, CONFIG)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path) -> None:
    with pytest.raises(ValueError, match="there is no folder /nowhere"):
        prepare(replace(SPLIT, data="/nowhere"), tmp_path, CONFIG)


def test_a_log_of_your_own_must_name_its_configuration(tmp_path) -> None:
    write_own(tmp_path)
    own = replace(SPLIT, data=str(tmp_path))
    with pytest.raises(ValueError, match="name the configuration whose spec"):
        config_for(own, "")
    assert config_for(own, "demo") == PROFILES["demo"]
    assert config_for(SPLIT, "") == PROFILES["demo"]
    assert config_for(SPLIT, "kuairand") == PROFILES["kuairand"]


def test_each_log_has_a_folder_of_its_own(tmp_path) -> None:
    data = (str(tmp_path / "a/log"), str(tmp_path / "b/log"), "sim:10", "~nobody that there is")
    folders = [default_work(replace(SPLIT, data=log)) for log in data]
    assert len(set(folders)) == 4
    assert all(folder.parts[:2] == ("runs", "backtest") for folder in folders)
    assert [folder.name.rpartition("-")[0] for folder in folders] == [
        "log",
        "log",
        "sim-10",
        "nobody-that-there-is",
    ]


@pytest.mark.kuairand
@pytest.mark.skipif(not os.environ.get("FEEDSR_KUAIRAND"), reason="FEEDSR_KUAIRAND is not set")
def test_kuairand_is_cut_as_its_readme_says(tmp_path) -> None:
    data = os.environ["FEEDSR_KUAIRAND"]
    split = LogSplit(data=data, train_before="2022-05-04", test_through="2022-05-05")
    prepared = prepare(split, tmp_path, config_for(split, ""))
    train, test = (prepared.stages[path.name] for path in (prepared.train, prepared.test))
    assert train["targets"] == pytest.approx(150_214, rel=0.005)
    assert test["targets"] == pytest.approx(30_281, rel=0.005)
    assert train["auxiliary"] == pytest.approx(817_187, rel=0.001)
