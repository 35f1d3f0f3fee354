# SPDX-License-Identifier: Apache-2.0
"""Scores that are the truth have no position bias, scores of what was shown have all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.backtest.shards import ShardPlan, write_test, write_train
from components.backtest.split import LogSplit
from components.config import PROFILES, TrainConfig
from components.layout.paths import Layout
from components.log.ingest import ingest
from components.log.sources import SimulatorConfig, simulate
from components.log.sources.feedback import EXAMINED_ACTIONS
from components.log.sources.simulator import truth_day
from components.studies.position_bias import position_bias, slope
from components.training.data import evaluation_batches
from components.training.run import TrainingRun
from components.training.shards import write_shards
from feature_repo.specs import SIMULATOR
from model import FeedSRConfig, HeadConfig
from model.batch import TrainBatch
from model.checkpoint import load_model
from model.ranker import Output
from serving.predictor.rank_batch import SERVING_POSITION
from tests.shard_builders import shard_batch

FEED = SimulatorConfig(impressions=12_000, members=150, position_exponent=0.8)
PLAN = ShardPlan(
    split=LogSplit(data="sim:12000", train_before="2026-01-11", test_through="2026-01-13"),
    spec=SIMULATOR,
    freshness="day",
)
TASKS = SIMULATOR.task_names


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> Layout:  # type: ignore[no-untyped-def]
    layout = Layout.at(tmp_path_factory.mktemp("position"))
    simulate(layout, FEED)
    for day in layout.raw_days():
        ingest(layout, day, PROFILES["demo"])
    write_train(layout, layout.root / "train", PLAN)
    write_test(layout, layout.root / "test", PLAN)
    return layout


class Oracle(torch.nn.Module):
    """Gives, in stored order, logits that someone who knows the truth made of it."""

    def __init__(self, layout: Layout, logit: Callable[[dict[str, Any], str], np.ndarray]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        truth = pa.concat_tables([truth_day(layout, d) for d in layout.raw_days()])
        columns = {name: truth[name].to_numpy() for name in truth.column_names}
        known = np.stack(
            [logit(columns, t) if t != "skip" else columns["p_skip"] for t in TASKS], 1
        )
        keys = zip(*(columns[n] for n in ("member_id", "post_id", "event_time")), strict=True)
        place = {key: i for i, key in enumerate(keys)}
        self.logits = []
        for batch, packed in evaluation_batches(layout.root / "test", SIMULATOR):
            member = np.repeat(packed.keys["member_id"], packed.lengths_S)
            columns = {**packed.columns, "member_id": member}
            rows = zip(
                *(
                    columns[n][batch.target_R.numpy()]
                    for n in ("member_id", "post_id", "event_time")
                ),
                strict=True,
            )
            self.logits.append(torch.from_numpy(known[[place[row] for row in rows]]))
        self.calls = 0
        self.positions: list[torch.Tensor] = []

    def forward(self, batch: TrainBatch) -> Output:
        logits = self.logits[self.calls % len(self.logits)]
        self.calls += 1
        self.positions.append(batch.position_R)
        assert len(logits) == len(batch.target_R)
        return Output(logits, logits[:0])


def logit(p: np.ndarray) -> np.ndarray:
    p = p.astype(np.float64)
    return np.log(p) - np.log1p(-p)


def relevance(truth: dict[str, Any], task: str) -> np.ndarray:
    return truth[f"b_{task}"].astype(np.float64) / truth["examination"]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_an_oracle_has_the_slope_it_was_given(layout: Layout, share: float) -> None:
    """0 is the relevance itself, 1 the probability as it was shown, between them a part."""

    def biased(truth: dict[str, Any], task: str) -> np.ndarray:
        return logit(relevance(truth, task) * truth["examination"] ** share * 0.999)

    oracle = Oracle(layout, biased)
    bias = position_bias(oracle, layout.root / "test", layout, SIMULATOR)
    assert set(bias["tasks"]) == set(EXAMINED_ACTIONS)
    assert bias["position"] == SERVING_POSITION
    for kinds in bias["tasks"].values():
        for slopes in (kinds["residual"], kinds["shown"]):
            assert slopes["value"] == pytest.approx(share, abs=1e-3)
            assert slopes["high"] - slopes["low"] < 1e-3
    half = len(oracle.positions) // 2
    assert (torch.cat(oracle.positions[:half]) == SERVING_POSITION).all()
    assert len(torch.cat(oracle.positions[half:]).unique()) == FEED.request_size
    assert bias["n"] == len(torch.cat(oracle.logits))


def test_scores_that_are_flat_and_noisy_are_not_biased(layout: Layout) -> None:
    rng = np.random.default_rng(0)

    def timid(truth: dict[str, Any], task: str) -> np.ndarray:
        p = relevance(truth, task)
        return 0.4 * logit(0.999 * p) - 1 + 0.5 * rng.normal(size=len(p))

    bias = position_bias(Oracle(layout, timid), layout.root / "test", layout, SIMULATOR)
    for kinds in bias["tasks"].values():
        low, high = kinds["residual"]["low"], kinds["residual"]["high"]
        assert low - 0.02 < 0 < high + 0.02
        assert high - low < 0.2


def test_a_trained_ranker_knows_a_part_and_ranks_by_none(layout: Layout) -> None:
    """Told a position it gives some of the planted bias; held at one, none that can be measured."""
    config = FeedSRConfig(
        width=16, layers=1, heads=1, head=HeadConfig(name="mlp", width=16, hidden=1)
    )
    recipe = TrainConfig(global_batch=8, micro_batch=8, epochs=4, learning_rate=3e-3)
    out = layout.root / "model"
    TrainingRun(
        shards=layout.root / "train",
        out=out,
        ranker=config,
        spec=SIMULATOR,
        config=recipe,
        freshness="day",
    ).train()
    model, _ = load_model(out, SIMULATOR)
    bias = position_bias(model, layout.root / "test", layout, SIMULATOR)
    for task in ("click", "long_dwell"):
        residual, shown = bias["tasks"][task]["residual"], bias["tasks"][task]["shown"]
        assert 0 < shown["low"] < shown["high"] < 1.1
        assert residual["low"] < 0.1
        assert -0.1 < residual["high"] < shown["low"]


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**16),
    bias=st.floats(-1, 2),
    flat=st.floats(-1, 1),
    shift=st.floats(-3, 3),
)
def test_the_slope_is_told_from_relevance(
    seed: int, bias: float, flat: float, shift: float
) -> None:
    """Also where better posts are shown higher, which alone would look like bias."""
    rng = np.random.default_rng(seed)
    relevance_R = rng.normal(size=400)
    examined_R = 0.5 * relevance_R + rng.normal(size=400)
    error = bias * examined_R + flat * relevance_R + shift
    fitted = slope(error, examined_R, relevance_R, rng.integers(0, 40, 400))
    assert fitted["value"] == pytest.approx(bias, abs=1e-6)
    noisy = slope(error + rng.normal(size=400), examined_R, relevance_R, np.arange(400) % 40)
    assert noisy["low"] < noisy["value"] < noisy["high"]  # type: ignore[operator]
    assert abs(noisy["value"] - bias) < 0.35  # type: ignore[operator]


def test_a_feed_without_bias_has_no_share_of_it() -> None:
    with pytest.raises(ValueError, match="no position bias is planted") as error:
        slope(np.zeros(3), np.zeros(3), np.arange(3.0), np.arange(3))
    assert "\n" not in str(error.value)


def test_a_log_without_its_truth_is_told(layout: Layout, tmp_path: Path) -> None:
    oracle = Oracle(layout, lambda truth, task: logit(truth[f"p_{task}"]))
    with pytest.raises(ValueError, match="does not hold the truth of every impression"):
        position_bias(oracle, layout.root / "test", Layout.at(tmp_path), SIMULATOR)
    other = Layout.at(tmp_path / "other")
    simulate(other, FEED.model_copy(update={"seed": 1}))
    with pytest.raises(ValueError, match="does not hold the truth of every impression"):
        position_bias(oracle, layout.root / "test", other, SIMULATOR)


def test_no_impression_has_no_position_bias(tmp_path: Path) -> None:
    batch = shard_batch(SIMULATOR, np.array([3]), np.random.default_rng(0), 1)
    with write_shards(tmp_path / "none", {"spec_hash": SIMULATOR.hash}) as shards:
        shards.write(batch.slice(0, 0))
    with pytest.raises(ValueError, match=r"none.* no impression to score"):
        position_bias(torch.nn.Linear(1, 1), tmp_path / "none", Layout.at(tmp_path), SIMULATOR)
    nothing = np.zeros(0)
    with pytest.raises(ValueError, match="no impression"):
        slope(nothing, nothing, nothing, np.zeros(0, np.int64))
