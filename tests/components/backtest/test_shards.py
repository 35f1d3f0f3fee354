# SPDX-License-Identifier: Apache-2.0
"""Both sides of a split: which rows are on each, and what they may know."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.backtest.prepare import Prepared, prepare
from components.backtest.shards import ShardPlan, write_test, write_train
from components.backtest.split import LogSplit
from components.layout.paths import Layout
from components.training.data import evaluation_batches
from feature_repo.spec import FRESHNESS
from feature_repo.specs import SIMULATOR
from kernels.loader import TARGET
from model import build_ranker
from tests.backtest_builders import other_future
from tests.loop_builders import small_config

SPLIT = LogSplit(data="sim:4000", train_before="2026-01-12", test_through="2026-01-13")
PLAN = ShardPlan(split=SPLIT, spec=SIMULATOR, freshness="day")
CONFIG = small_config()
LIMIT = SIMULATOR.day_start(SIMULATOR.day_number(SPLIT.train_before))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Prepared:
    return prepare(SPLIT, tmp_path_factory.mktemp("shards"), CONFIG)


@pytest.fixture(scope="module")
def layout(prepared) -> Layout:
    """The log, ingested."""
    return Layout.at(prepared.train.parents[1])


def target_times(folder: Path) -> np.ndarray:
    return np.concatenate(
        [
            packed.columns["event_time"][batch.target_R.numpy()]
            for batch, packed in evaluation_batches(folder, SIMULATOR)
        ]
    )


def test_training_ends_where_the_test_begins(prepared) -> None:
    for _, packed in evaluation_batches(prepared.train, SIMULATOR):
        assert packed.columns["event_time"].max() < LIMIT
    assert target_times(prepared.test).min() >= LIMIT


def test_the_targets_of_the_test_are_all_impressions_of_its_days(prepared, layout) -> None:
    days = {SIMULATOR.day_number(day) for day in SPLIT.test_days}
    served = [
        np.isin(SIMULATOR.day(pq.read_table(path)["event_time"].to_numpy()), [*days]).sum()
        for path in map(layout.impressions_day, layout.impression_days())
    ]
    assert len(target_times(prepared.test)) == sum(served) > 0
    assert set(SIMULATOR.day(target_times(prepared.test)).tolist()) == days


def test_a_sequence_of_the_test_has_the_targets_of_one_day(prepared) -> None:
    for _, packed in evaluation_batches(prepared.test, SIMULATOR):
        day_M = SIMULATOR.day(packed.columns["event_time"])
        target_M = packed.columns["loss"] == TARGET
        sequence_M = np.repeat(np.arange(packed.num_sequences), packed.lengths_S)
        for sequence in np.unique(sequence_M[target_M]):
            assert len(np.unique(day_M[target_M & (sequence_M == sequence)])) == 1


def test_a_watermark_leaves_a_loss_on_what_is_newer_alone(layout) -> None:
    plan = replace(PLAN, after_day="2026-01-10")
    folder = layout.root / "newer"
    counts = write_train(layout, folder, plan)
    days = set(SIMULATOR.day(target_times(folder)).tolist())
    assert days == {SIMULATOR.day_number("2026-01-11")}
    assert counts["targets"] < write_train(layout, layout.root / "all", PLAN)["targets"]


def test_names_tell_shards_of_one_log_apart() -> None:
    assert PLAN.train_name == "2026-01-12-day"
    assert PLAN.test_name == "2026-01-12-2026-01-13-day"
    warm = replace(PLAN, freshness="30m", after_day="2026-01-10")
    assert warm.train_name == "2026-01-12-30m-after-2026-01-10"
    assert warm.test_name == "2026-01-12-2026-01-13-30m"


def test_a_freshness_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="want one of day, 30m, immediate"):
        replace(PLAN, freshness="hour")


def test_days_without_a_timed_impression_are_told(layout) -> None:
    later = replace(PLAN, split=SPLIT.following("2026-01-15"))
    with pytest.raises(ValueError, match="no timed impression in the days of later"):
        write_test(layout, layout.root / "later", later)


@pytest.mark.law
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    freshness=st.sampled_from(FRESHNESS),
    share=st.floats(0.75, 1.0),
    ranker=st.sampled_from([CONFIG.feed_sr, CONFIG.dcnv2]),
)
def test_nothing_known_later_reaches_a_score(
    layout, tmp_path_factory, freshness, share, ranker
) -> None:
    """Law 4: other actions in what arrives from a time on move no score of an earlier cutoff."""
    files = [layout.impressions_day(day) for day in layout.impression_days()]
    times = np.concatenate([pq.read_table(file)["arrival_time"].to_numpy() for file in files])
    now = int(np.quantile(times, share))
    changed = other_future(layout, Layout.at(tmp_path_factory.mktemp("changed")), now)
    plan = replace(PLAN, freshness=freshness)
    model = build_ranker(ranker, SIMULATOR, seed=3).eval()
    scores = []
    for log in (layout, changed):
        write_test(log, log.root / "law", plan)
        scores.append(scored(model, log.root / "law", plan))
    before = scores[0][0] <= now
    np.testing.assert_array_equal(scores[0][1][before], scores[1][1][before])
    if 0 < before.sum() < len(before) and share < 0.9:
        assert (scores[0][1][~before] != scores[1][1][~before]).any()
    if now >= LIMIT:
        assert training_bytes(layout, plan) == training_bytes(changed, plan)


def training_bytes(layout: Layout, plan: ShardPlan) -> list[bytes]:
    folder = layout.root / "law-train"
    write_train(layout, folder, plan)
    return [path.read_bytes() for path in sorted(folder.glob("*"))]


def scored(model, folder: Path, plan: ShardPlan) -> tuple[np.ndarray, np.ndarray]:
    """The cutoff and the logits of every target."""
    cutoffs, logits = [], []
    for batch, packed in evaluation_batches(folder, plan.spec):
        time_ms = packed.columns["event_time"][batch.target_R.numpy()]
        cutoffs.append(plan.spec.cutoff(time_ms, plan.freshness))
        with torch.no_grad():
            logits.append(model(batch).logits_RK.numpy())
    return np.concatenate(cutoffs), np.concatenate(logits)
