# SPDX-License-Identifier: Apache-2.0
"""The shards of a leakage study: cut once each, beside those that a backtest has."""

from pathlib import Path

import numpy as np
import pytest

from components.backtest.prepare import prepare
from components.studies.leakage.cut import SessionCut
from components.studies.leakage.shards import LeakageShards, day_config, prepare_shards
from components.training.data import evaluation_batches
from feature_repo.specs import SIMULATOR
from kernels.loader import TARGET, Packed
from tests.loop_builders import small_config
from tests.study_builders import SPLIT

CONFIG = small_config().model_copy(update={"freshness": "immediate"})
CUT = SessionCut(spec=SIMULATOR, sessions="pause")


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("leakage")


@pytest.fixture(scope="module")
def shards(work) -> LeakageShards:
    return prepare_shards(SPLIT, work, CONFIG, CUT)


def sequences(folder: Path) -> list[Packed]:
    return [packed for _, packed in evaluation_batches(folder, SIMULATOR)]


def known(folder: Path) -> int:
    """How much all targets of a folder knew."""
    return sum(
        int(packed.columns["known"][packed.columns["loss"] == TARGET].sum())
        for packed in sequences(folder)
    )


def test_folders_are_named_by_what_was_cut_of_them(shards) -> None:
    uncut = "train-2026-01-12-immediate"
    assert shards.uncut.train.name == uncut
    assert shards.cut.train.name == f"{uncut}-cut-pause"
    test = "test-2026-01-12-2026-01-13-immediate"
    assert (shards.cut.test.name, shards.history.name) == (
        f"{test}-cut-pause",
        f"{test}-history-pause",
    )
    assert shards.day.train.name == "train-2026-01-12-day"


def test_both_sides_are_those_of_a_backtest(shards, work) -> None:
    assert prepare(SPLIT, work, CONFIG).train == shards.uncut.train
    assert prepare(SPLIT, work, day_config(CONFIG)).test == shards.day.test


def test_less_is_known_the_more_is_cut(shards) -> None:
    assert known(shards.day.test) < known(shards.cut.test) < known(shards.uncut.test)
    assert known(shards.history) == known(shards.cut.test)
    assert shards.counts["known_cut"] > 0
    assert shards.counts["targets"] == sum(
        int((packed.columns["loss"] == TARGET).sum()) for packed in sequences(shards.cut.test)
    )


def test_the_history_alone_leaves_the_counters_as_they_were(shards) -> None:
    folders = (shards.uncut.test, shards.history, shards.cut.test)
    uncut, history, cut = (
        np.concatenate([packed.context_RC for packed in sequences(folder)]) for folder in folders
    )
    np.testing.assert_array_equal(history, uncut)
    assert not np.array_equal(cut, uncut, equal_nan=True)


def test_a_second_run_cuts_nothing_again(shards, work) -> None:
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.arrow")}
    assert prepare_shards(SPLIT, work, CONFIG, CUT).counts == shards.counts
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*.arrow")} == before


def test_another_kind_of_session_is_cut_beside_it(shards, work) -> None:
    logged = prepare_shards(SPLIT, work, CONFIG, SessionCut(spec=SIMULATOR))
    assert logged.cut.test.name.endswith("-cut-logged")
    assert logged.counts["known_cut"] == 0  # a request is served at once, before its feedback
    assert known(logged.cut.test) == known(logged.uncut.test)
