# SPDX-License-Identifier: Apache-2.0
"""A run's configuration: read whole or refused in one sentence, and written as it was read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from components.config import PROFILES, GateConfig, TrainConfig, load_config

SHARES = st.floats(0, 1, exclude_min=True)


@pytest.mark.parametrize("name", PROFILES)
def test_a_shipped_configuration_is_one_value_by_name_or_by_file(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    assert config is PROFILES[name]
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json())
    assert load_config(str(path)) == config
    assert config.spec.name == config.spec_name
    assert list(config.rankers) == ["feed_sr", "dcnv2"]
    assert set(config.rankers.values()) == {config.feed_sr, config.dcnv2}


def test_a_name_that_is_none_lists_those_there_are() -> None:
    message = "there is no configuration 'dmo': want one of demo, kuairand or a JSON file"
    with pytest.raises(ValueError, match=message):
        load_config("dmo")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spec_name": "movies"}, "there is no spec 'movies'"),
        ({"gate": {"task": "dwell"}}, "gate.task: there is no 'dwell'; have click, skip, long_"),
        ({"misspelt": 1}, "misspelt"),
        ({"cold": {"epochs": 0}}, "cold.epochs"),
        ({"cold": {"learning_rate": "much"}}, "cold.learning_rate"),
        ({"freshness": "yesterday"}, "freshness"),
    ],
)
def test_a_file_that_is_wrong_is_one_sentence(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "config.json"
    values = PROFILES["demo"].model_dump(mode="json", exclude_defaults=True)
    path.write_text(json.dumps({**values, **changes}))
    with pytest.raises(ValueError, match=message) as error:
        load_config(str(path))
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_json_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: ") as error:
        load_config(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given_", "kept"),
    [(True, "estimated"), ("estimated", "estimated"), (False, False), ([1, 0.5], (1.0, 0.5))],
)
def test_what_a_propensity_may_be(given_: Any, kept: Any) -> None:
    config = TrainConfig(propensity=given_)
    assert config.propensity == kept
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


@settings(deadline=None)
@given(st.lists(SHARES, max_size=9), st.sampled_from([0.0, -0.1, 1.01, float("nan"), "x", None]))
def test_a_propensity_is_a_probability_above_0(shares: list[float], wrong: Any) -> None:
    if shares:
        assert TrainConfig(propensity=tuple(shares)).propensity == tuple(shares)
    for values in ([*shares, wrong], wrong, "guessed", {}, 1.5):
        with pytest.raises(ValidationError, match="is no propensity; want false"):
            TrainConfig.model_validate({"propensity": values})


def test_what_came_later_is_not_written_where_it_is_not_used() -> None:
    """So that what was made before keeps its fingerprint."""
    assert not {"teachers", "teacher_weight"} & TrainConfig().model_dump().keys()
    taught = TrainConfig(teachers=2, teacher_weight=0.25).model_dump()
    assert (taught["teachers"], taught["teacher_weight"]) == (2, 0.25)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_is_finite(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        TrainConfig(learning_rate=value)
    with pytest.raises(ValidationError, match="finite"):
        GateConfig(min_auc=value)


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        PROFILES["demo"].freshness = "30m"  # type: ignore[misc]
