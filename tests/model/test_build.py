# SPDX-License-Identifier: Apache-2.0
"""Every ranker is built by the name of its configuration, and by a seed alone."""

from __future__ import annotations

import pytest
import torch

from model import DCNv2Config, FeedSRConfig, RankerConfig, build_ranker
from model.build import RANKERS, build
from tests.builders import TINY
from tests.model.variants import SMALL
from tests.rival_builders import RIVALS

CONFIGS: tuple[RankerConfig, ...] = (SMALL, DCNv2Config(), *RIVALS)


def test_the_registry_knows_each_by_the_name_its_configuration_has() -> None:
    for name, (config, _) in RANKERS.items():
        assert config.model_validate({}).ranker == name
        assert (
            config.model_validate_json(config.model_validate({}).model_dump_json()).ranker == name
        )
    assert {config.ranker for config in CONFIGS} == set(RANKERS)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.ranker)
def test_a_configuration_builds_its_ranker(config: RankerConfig) -> None:
    ranker = build(config, TINY, seed=0)
    assert isinstance(ranker, RANKERS[config.ranker][1])  # type: ignore[arg-type]
    assert (ranker.config, ranker.spec) == (config, TINY)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.ranker)
def test_a_seed_decides_the_weights_and_leaves_the_generator(config: RankerConfig) -> None:
    torch.manual_seed(11)
    want = torch.rand(3)
    torch.manual_seed(11)
    first, second = build_ranker(config, TINY, 4), build_ranker(config, TINY, 4)
    assert torch.equal(torch.rand(3), want)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    other = build_ranker(config, TINY, 5).state_dict()
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())


def test_without_a_seed_it_is_zero() -> None:
    first, second = build_ranker(FeedSRConfig(), TINY), build(FeedSRConfig(), TINY, 0)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
