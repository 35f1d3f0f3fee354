# SPDX-License-Identifier: Apache-2.0
"""A day is planned once; it is warm only where yesterday's weights fit what is asked for today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.config import DailyConfig
from components.layout import Layout, write_json
from components.plan import plan
from model import FeedSRConfig
from tests.loop_builders import tiny_config

VERSION, TRAINED, DAY = "2026-01-08-aaaaaaaa", "2026-01-08", "2026-01-09"


def root_with_production(root: Path, config: DailyConfig, **changed: Any) -> Layout:
    """A root whose registry and baseline are there as the registry and training write them."""
    layout = Layout.at(root)
    folder = layout.registry / "versions" / VERSION
    record = {
        "day": TRAINED,
        "spec_hash": config.spec.hash,
        "freshness": config.freshness,
        **changed,
    }
    write_json(folder / "version.json", record)
    write_json(folder / "config.json", {"config": config.feed_sr.model_dump(mode="json")})
    (layout.registry / "current").symlink_to(Path("versions") / VERSION)
    write_json(layout.model(TRAINED, "dcnv2") / "config.json", {})
    return layout


def test_without_a_model_in_production_the_start_is_cold(tmp_path: Path) -> None:
    made = plan(Layout.at(tmp_path), DAY, tiny_config())
    assert (made.start, made.after_day, made.through_day) == (None, None, "2026-01-08")
    assert made.reason == "cold start: there is no model in production"


def test_a_model_that_fits_is_a_warm_start_from_its_watermark(tmp_path: Path) -> None:
    config = tiny_config()
    layout = root_with_production(tmp_path, config)
    made = plan(layout, DAY, config)
    assert made.start == layout.registry / "versions" / VERSION
    assert made.baseline_start == layout.model(TRAINED, "dcnv2")
    assert (made.after_day, made.through_day) == ("2026-01-07", "2026-01-08")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"spec_hash": "0"}, "the feature spec changed"),
        ({"freshness": "immediate"}, "was trained for freshness immediate"),
        ({"day": DAY}, "is not older than"),
    ],
)
def test_a_model_that_does_not_fit_is_a_cold_start_that_says_why(
    tmp_path: Path, changed: dict[str, str], why: str
) -> None:
    config = tiny_config()
    made = plan(root_with_production(tmp_path, config, **changed), DAY, config)
    assert made.start is None
    assert why in made.reason


def test_another_shape_of_model_is_a_cold_start(tmp_path: Path) -> None:
    config = tiny_config()
    layout = root_with_production(tmp_path, config)
    wider = config.model_copy(update={"feed_sr": FeedSRConfig(width=32, layers=1, heads=1)})
    assert "configuration changed" in plan(layout, DAY, wider).reason


def test_a_missing_baseline_is_a_cold_start(tmp_path: Path) -> None:
    config = tiny_config()
    layout = root_with_production(tmp_path, config)
    (layout.model(TRAINED, "dcnv2") / "config.json").unlink()
    assert "baseline" in plan(layout, DAY, config).reason


def test_a_day_keeps_its_plan_after_its_model_is_promoted(tmp_path: Path) -> None:
    config = tiny_config()
    cold = plan(Layout.at(tmp_path), DAY, config)
    layout = root_with_production(tmp_path, config)
    assert plan(layout, DAY, config) == cold
    other = config.model_copy(update={"parity_requests": 3})
    assert plan(layout, DAY, other).start is not None
