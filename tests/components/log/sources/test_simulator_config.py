# SPDX-License-Identifier: Apache-2.0
"""The simulator's configuration: one value gives one feed, and a wrong one is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from components.log.sources.simulator_config import SimulatorConfig


@pytest.mark.parametrize(
    "wrong", [{"actors": 5}, {"days": 0}, {"late_share": 1.5}, {"misspelt": 1}]
)
def test_a_wrong_configuration_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SimulatorConfig.model_validate(wrong)


def test_there_is_an_actor_for_each_topic() -> None:
    SimulatorConfig(actors=5, topics=5)
    with pytest.raises(ValidationError, match="actors is 4, want at least topics = 5"):
        SimulatorConfig(actors=4, topics=5)


@pytest.mark.parametrize(
    ("name", "fits", "does_not"),
    [
        ("late_share", 1.0, 1.01),
        ("bad_share", 0.0, -0.01),
        ("request_size", 1, 0),
        ("topics", 16, 17),
        ("half_life_hours", 0.1, 0.0),
    ],
)
def test_each_limit_and_its_neighbour(name: str, fits: float, does_not: float) -> None:
    assert getattr(SimulatorConfig.model_validate({name: fits}), name) == fits
    with pytest.raises(ValidationError, match=name):
        SimulatorConfig.model_validate({name: does_not})


def test_a_configuration_is_a_value() -> None:
    assert SimulatorConfig(seed=3) == SimulatorConfig.model_validate_json('{"seed": 3}')
    with pytest.raises(ValidationError, match="frozen"):
        SimulatorConfig().seed = 1  # type: ignore[misc]
