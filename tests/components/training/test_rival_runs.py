# SPDX-License-Identifier: Apache-2.0
"""The rivals through the doors that every ranker goes through: training, evaluation, backtests."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.backtest.backtest import ranker_configs
from components.config import PROFILES, TrainConfig
from components.evaluation.evaluate import evaluate_ranker
from components.layout.paths import Layout
from components.training.train import fit, train
from feature_repo.specs import SIMULATOR
from model import FeedSRConfig, RankerConfig
from model.build import RANKERS
from model.checkpoint import load_model
from tests.rival_builders import RIVALS
from tests.shard_builders import random_lengths, write_shards

RECIPE = TrainConfig(global_batch=8, micro_batch=4, epochs=4, learning_rate=1e-2)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, SIMULATOR, random_lengths(120, mean=12), seed=0)
    return folder


@pytest.mark.parametrize("config", RIVALS, ids=lambda config: config.ranker)
def test_it_is_trained_and_scored_as_every_ranker(
    config: RankerConfig, shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / config.ranker
    record = fit(shards, out, config, SIMULATOR, RECIPE, "day")
    curve = [point["loss"] for point in record["curve"]]
    assert curve[-1] < curve[0]
    assert fit(shards, out, config, SIMULATOR, RECIPE, "day") == record
    ranker, kept = load_model(out, SIMULATOR)
    assert kept == record
    for measured in evaluate_ranker(ranker, shards, SIMULATOR).tasks.values():
        assert measured.n == record["targets"]
        assert measured.auc is not None


def test_a_backtest_knows_every_ranker_and_the_loop_its_own() -> None:
    config = PROFILES["kuairand"].model_copy(update={"feed_sr": FeedSRConfig(width=32)})
    chosen = ranker_configs(config, tuple(RANKERS))
    assert {name: made.ranker for name, made in chosen.items()} == {n: n for n in RANKERS}
    assert chosen["feed_sr"] == config.feed_sr
    assert chosen["ligr"] == RANKERS["ligr"][0].model_validate({})
    with pytest.raises(ValueError, match="no ranker 'svd'; have feed_sr, dcnv2, lirank"):
        ranker_configs(config, ("ligr", "svd"))


def test_the_daily_loop_trains_its_own_rankers_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no ranker 'ligr'; have feed_sr, dcnv2$"):
        train(Layout.at(tmp_path), "2026-01-05", PROFILES["demo"], "ligr")
