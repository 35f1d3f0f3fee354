# SPDX-License-Identifier: Apache-2.0
"""Configurations survive JSON, refuse what they do not know, and cost no torch to read."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from model import DCNv2Config, FeedSRConfig, HeadConfig
from model.config import BlockName, HeadName, NormName, PositionsName, ResidualName

heads = st.builds(HeadConfig, name=st.sampled_from(get_args(HeadName)), width=st.integers(1, 512))
configs = st.one_of(
    st.builds(
        FeedSRConfig,
        width=st.sampled_from([16, 64, 256]),
        layers=st.integers(1, 12),
        heads=st.sampled_from([1, 2, 4, 8]),
        mlp=st.sampled_from(["gelu", "swiglu"]),
        head=heads,
        positions=st.sampled_from(get_args(PositionsName)),
        attention=st.sampled_from(["softmax", "silu"]),
        block=st.sampled_from(get_args(BlockName)),
        residual=st.sampled_from(get_args(ResidualName)),
        norm=st.sampled_from(get_args(NormName)),
    ),
    st.builds(DCNv2Config, head=heads, embedding_dropout=st.floats(0, 0.9)),
)


@given(configs)
def test_json_round_trip(config: FeedSRConfig | DCNv2Config) -> None:
    assert type(config).model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    "wrong", [{"depth": 3}, {"layers": 0}, {"head": {"name": "gbdt"}}, {"attention": "linear"}]
)
def test_what_it_does_not_know_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        FeedSRConfig.model_validate(wrong)


def test_reading_a_configuration_does_not_load_torch() -> None:
    code = "import sys, model; model.FeedSRConfig(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_width_must_fit_the_heads() -> None:
    with pytest.raises(ValueError, match="width 10 with 4 heads"):
        FeedSRConfig(width=10, heads=4)
