# SPDX-License-Identifier: Apache-2.0
"""A ranker of a work folder is trained once a seed, and lies where it always lay."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from components.backtest.rankers import ranker_configs, seeded, train_seed
from components.config import PROFILES, DailyConfig
from feature_repo.specs import SIMULATOR
from model import FeedSRConfig
from model.build import RANKERS
from model.checkpoint import load_model
from tests.loop_builders import small_config
from tests.shard_builders import random_lengths, write_shards

CONFIG = small_config()


@dataclass(frozen=True)
class Trainer:
    """Trains on one folder of shards."""

    work: Path
    shards: Path

    def __call__(self, name: str, config: DailyConfig, seed: int) -> torch.nn.Module:
        ranker = ranker_configs(config, (name,))[name]
        return train_seed(self.work, self.shards, ranker, config, seed)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory) -> Trainer:
    work = tmp_path_factory.mktemp("rankers")
    shards = work / "sequences" / "train-2026-01-12-day"
    write_shards(shards, SIMULATOR, random_lengths(60), seed=0)
    return Trainer(work, shards)


def models(work: Path) -> dict[str, int]:
    paths = (work / "models").rglob("model.safetensors")
    return {str(path.parent.relative_to(work)): path.stat().st_mtime_ns for path in paths}


def test_what_an_earlier_version_trained_is_where_it_is_looked_for(trainer) -> None:
    """The names that models had before; another one would train all of them anew."""
    trainer("dcnv2", CONFIG, 0)
    trainer("dcnv2", CONFIG, 1)
    trainer("feed_sr", CONFIG, 0)
    assert set(models(trainer.work)) == {
        "models/2026-01-12-day/dcnv2-96fa3b4e",
        "models/2026-01-12-day/dcnv2-8a979962",
        "models/2026-01-12-day/feed_sr-1363ec50",
    }


def test_a_ranker_that_is_trained_is_loaded(trainer) -> None:
    first = trainer("dcnv2", CONFIG, 0)
    before = models(trainer.work)
    again = trainer("dcnv2", CONFIG, 0)
    assert models(trainer.work) == before
    for weights, loaded in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(weights, loaded)
    assert not again.training


def test_a_seed_counts_from_the_configurations_own(trainer) -> None:
    later = CONFIG.model_copy(update={"cold": seeded(CONFIG.cold, 1)})
    assert later.cold.seed == CONFIG.cold.seed + 1
    before = models(trainer.work)
    second = trainer("dcnv2", CONFIG, 1)
    known = models(trainer.work)
    assert known.keys() >= before.keys()
    trainer("dcnv2", later, 0)
    assert models(trainer.work) == known
    first = trainer("dcnv2", CONFIG, 0)
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert any(not torch.equal(weights, other) for weights, other in pairs)


def test_the_seed_is_all_that_a_seeded_training_changes() -> None:
    training = PROFILES["kuairand"].cold
    assert seeded(training, 0) == training
    assert seeded(training, 3).model_dump(exclude={"seed"}) == training.model_dump(exclude={"seed"})


def test_a_model_remembers_how_fresh_its_shards_were(trainer) -> None:
    trainer("dcnv2", CONFIG, 0)
    _, record = load_model(trainer.work / "models/2026-01-12-day/dcnv2-96fa3b4e", SIMULATOR)
    assert record["freshness"] == "day"
    fresh = CONFIG.model_copy(update={"freshness": "immediate"})
    with pytest.raises(ValueError, match="freshness"):
        trainer("feed_sr", fresh, 5)


def test_rankers_are_the_configurations_own_or_built_with_their_defaults() -> None:
    config = PROFILES["kuairand"].model_copy(update={"feed_sr": FeedSRConfig(width=32)})
    configs = ranker_configs(config, RANKERS)
    assert {name: made.ranker for name, made in configs.items()} == {name: name for name in RANKERS}
    assert configs["feed_sr"] == config.feed_sr
    assert configs["ligr"] == RANKERS["ligr"][0].model_validate({})


@pytest.mark.parametrize(
    ("names", "sentence"),
    [(("svd",), "no ranker 'svd'; have feed_sr, dcnv2"), ((), "name at least one ranker of")],
)
def test_a_name_that_is_none_is_refused(names, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        ranker_configs(CONFIG, names)
