# SPDX-License-Identifier: Apache-2.0
"""A split is checked when it is made, and says its days and its log's name and kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from components.backtest.split import OWN, LogSplit, simulator_config
from components.log.sources import SimulatorConfig
from tests.components.log.sources.test_parquet import write_own

SPLIT = LogSplit(data="sim:4000,ranked=1", train_before="2026-02-27", test_through="2026-03-02")


def test_the_test_is_every_day_from_the_first_that_is_not_trained_on() -> None:
    assert SPLIT.test_days == ["2026-02-27", "2026-02-28", "2026-03-01", "2026-03-02"]
    assert SPLIT.train_through == "2026-02-26"
    day = replace(SPLIT, test_through=SPLIT.train_before)
    assert day.test_days == [SPLIT.train_before]


def test_the_following_split_tests_the_days_after_and_trains_on_all_before() -> None:
    following = SPLIT.following("2026-03-05")
    assert following.train_before == "2026-03-03"
    assert following.train_through == SPLIT.test_through
    assert (following.data, following.test_through) == (SPLIT.data, "2026-03-05")
    with pytest.raises(ValueError, match="before it begins on 2026-03-03"):
        SPLIT.following("2026-03-02")


@pytest.mark.parametrize("name", ["train_before", "test_through"])
@pytest.mark.parametrize("day", ["yesterday", "2026-01-32", "", "20260301", "2026-W10-1"])
def test_a_day_that_is_none_is_refused(name: str, day: str) -> None:
    with pytest.raises(ValueError, match=f"'{day}' is not a day; write it as YYYY-MM-DD"):
        replace(SPLIT, **{name: day})


def test_a_test_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match="ends on 2026-02-26, before it begins on 2026-02-27"):
        replace(SPLIT, test_through="2026-02-26")


def test_a_simulated_log_has_the_values_it_was_given() -> None:
    simulator = simulator_config(SPLIT.data)
    assert simulator == SimulatorConfig(impressions=4000, ranked=1)
    assert SPLIT.is_simulated
    assert SPLIT.kind == "simulator"


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("sim:", "write sim: and how many impressions"),
        ("sim:x", "write sim: and how many impressions"),
        ("sim:10,ranked", "write sim: and how many impressions"),
        ("sim:10,colour=1", "colour"),
        ("sim:0", "impressions"),
    ],
)
def test_a_simulated_log_that_is_none_is_one_sentence(data: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        replace(SPLIT, data=data)
    assert "\n" not in str(error.value)


def test_results_say_the_name_of_a_log_and_not_where_it_lies(tmp_path: Path) -> None:
    write_own(tmp_path / "mine")
    split = replace(SPLIT, data=str(tmp_path / "mine"))
    assert split.kind == OWN
    assert not split.is_simulated
    assert split.setting == {
        "data": "mine",
        "train_before": "2026-02-27",
        "test_through": "2026-03-02",
    }
    assert SPLIT.setting["data"] == SPLIT.data


def test_a_folder_whose_name_begins_with_a_tilde_is_named_and_missed_in_words() -> None:
    split = replace(SPLIT, data="~nobody that there is")
    assert split.name == split.data
    with pytest.raises(ValueError, match=r"there is no folder .*~nobody that there is"):
        _ = split.kind
