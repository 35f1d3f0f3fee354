# SPDX-License-Identifier: Apache-2.0
"""The rivals' configurations refuse what does not fit, and cost no torch to read."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from model import RankerConfig
from model.rivals import AppendedConfig, LiGRConfig, LiRankConfig, TransActConfig
from tests.rival_builders import RIVALS


@pytest.mark.parametrize("config", RIVALS, ids=lambda config: config.ranker)
def test_json_round_trip(config: RankerConfig) -> None:
    assert type(config).model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("config", "wrong", "sentence"),
    [
        (LiRankConfig, {"rank": 10, "fields": 4}, "rank 10 with 4 fields"),
        (TransActConfig, {"width": 10, "heads": 4}, "width 10 with 4 heads"),
        (TransActConfig, {"history": 4, "outputs": 5}, "outputs 5 of a history of 4"),
        (LiGRConfig, {"width": 10, "heads": 4}, "width 10 with 4 heads"),
        (TransActConfig, {"ranker": "lirank"}, "ranker"),
        (LiRankConfig, {"layers": 2}, "layers"),
        (AppendedConfig, {"set_layers": 1}, "set_layers"),
    ],
)
def test_what_does_not_fit_is_refused(
    config: type[RankerConfig], wrong: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValidationError, match=sentence):
        config.model_validate(wrong)


def test_reading_a_configuration_does_not_load_torch() -> None:
    code = "import sys, model.rivals as r; r.LiGRConfig(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
