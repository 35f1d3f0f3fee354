# SPDX-License-Identifier: Apache-2.0
"""A day is planned once; it is warm only where yesterday's weights fit what is asked for today."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from components.config import DailyConfig, GateConfig
from components.layout.files import write_json
from components.layout.paths import Layout
from components.registry.plan import fingerprint, plan
from components.registry.run import Run
from model import DCNv2Config, FeedSRConfig, RankerConfig
from tests.loop_builders import tiny_config
from tests.run_builders import version_record

VERSION, TRAINED, DAY = "2026-01-08-aaaaaaaa", "2026-01-08", "2026-01-09"


def root_with_production(root: Path, config: DailyConfig, **changed: Any) -> Layout:
    """A root whose registry and baseline are there as the registry and training write them."""
    layout = Layout.at(root)
    folder = layout.registry / "versions" / VERSION
    version_record(config.spec, VERSION, **changed).write(folder / "version.json")
    write_json(folder / "config.json", trained_as(config, config.feed_sr))
    (layout.registry / "current").symlink_to(Path("versions") / VERSION)
    baseline = layout.model(TRAINED, "dcnv2") / "config.json"
    write_json(baseline, trained_as(config, config.dcnv2))
    return layout


def trained_as(config: DailyConfig, ranker: RankerConfig) -> dict[str, Any]:
    """What a model's `config.json` says that others than the model read, beside more."""
    return {
        "ranker": ranker.ranker,
        "config": ranker.model_dump(mode="json"),
        "spec_hash": config.spec.hash,
        "record": {"freshness": config.freshness, "steps": 3},
    }


def promote_by_hand(layout: Layout, version: str, config: DailyConfig) -> None:
    """Puts a version of another day into production, as the registry does."""
    record = version_record(config.spec, version)
    record.write(layout.registry / "versions" / version / "version.json")
    (layout.registry / "current").unlink()
    (layout.registry / "current").symlink_to(Path("versions") / version)


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
    wider = config.model_copy(update={"feed_sr": FeedSRConfig(width=32, layers=1, heads=1)})
    promote_by_hand(layout, f"{DAY}-bbbbbbbb", config)
    assert plan(layout, DAY, config, renew=True) == cold
    assert "is not older than" in plan(layout, DAY, wider).reason


def test_a_run_that_begins_again_keeps_its_plan_where_production_stayed(tmp_path: Path) -> None:
    config = tiny_config()
    layout = root_with_production(tmp_path, config)
    made = plan(layout, DAY, config)
    (layout.model(TRAINED, "dcnv2") / "config.json").unlink()
    assert plan(layout, DAY, config, renew=True) == made
    (layout.registry / "current").unlink()
    assert plan(layout, DAY, config, renew=True) == made, "nothing in production is no other"


def test_a_plan_names_the_configuration_by_sixteen_digits(tmp_path: Path) -> None:
    config = tiny_config()
    assert re.fullmatch(r"[0-9a-f]{16}", fingerprint(config))
    made = plan(root_with_production(tmp_path, config), DAY, config)
    assert made.config == fingerprint(config)
    assert made.reason == f"warm start from {VERSION}, trained through 2026-01-07"
    assert (made.day, made.production) == (DAY, VERSION)


def test_another_gate_keeps_the_start(tmp_path: Path) -> None:
    config = tiny_config()
    layout = root_with_production(tmp_path, config)
    made = plan(layout, DAY, config)
    promote_by_hand(layout, f"{DAY}-bbbbbbbb", config)
    looser = config.model_copy(update={"gate": GateConfig(min_auc=0.5), "parity_requests": 3})
    assert plan(layout, DAY, looser, renew=True) == made


def test_a_run_that_begins_after_a_rollback_starts_from_what_is_in_production(
    tmp_path: Path,
) -> None:
    config = tiny_config()
    layout = root_with_production(tmp_path, config)
    promote_by_hand(layout, "2026-01-07-cccccccc", config)
    write_json(
        layout.registry / "versions" / "2026-01-07-cccccccc" / "config.json",
        trained_as(config, config.feed_sr),
    )
    layout.model(TRAINED, "dcnv2").rename(layout.model(TRAINED, "aside"))
    layout.run("2026-01-07").mkdir(parents=True)
    layout.model(TRAINED, "aside").rename(layout.model("2026-01-07", "dcnv2"))
    before = plan(layout, DAY, config)
    assert before.production == "2026-01-07-cccccccc"
    (layout.registry / "current").unlink()
    (layout.registry / "current").symlink_to(Path("versions") / VERSION)
    assert plan(layout, DAY, config) == before, "a run that is on its way keeps its plan"
    assert plan(layout, DAY, config, renew=True).production == VERSION


@pytest.mark.parametrize(
    "changed",
    [
        {"config": DCNv2Config(embedding_dropout=0.0).model_dump(mode="json")},
        {"spec_hash": "0"},
        {"record": {"freshness": "immediate"}},
    ],
)
def test_a_baseline_of_another_configuration_is_a_cold_start(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    config = tiny_config()
    layout = root_with_production(tmp_path, config)
    path = layout.model(TRAINED, "dcnv2") / "config.json"
    write_json(path, {**json.loads(path.read_text()), **changed})
    assert "the baseline's configuration changed" in plan(layout, DAY, config).reason


def test_a_version_in_production_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    config = tiny_config()
    layout = root_with_production(tmp_path, config)
    (layout.registry / "versions" / VERSION / "version.json").unlink()
    with pytest.raises(ValueError, match=f"{VERSION} is in production and gone"):
        plan(layout, DAY, config)


def test_a_plan_names_folders_from_the_root_so_that_it_can_be_moved(tmp_path: Path) -> None:
    config = tiny_config()
    layout = root_with_production(tmp_path / "here", config)
    made = plan(layout, DAY, config)
    assert made == Run(layout, DAY).plan
    written = json.loads((layout.run(DAY) / "plan.json").read_text())
    assert written["start"] == f"registry/versions/{VERSION}"
    assert written["baseline_start"] == f"runs/{TRAINED}/dcnv2"
    moved = Layout.at(layout.root.rename(tmp_path / "there"))
    assert plan(moved, DAY, config).start == moved.registry / "versions" / VERSION


def test_a_damaged_plan_is_one_sentence_and_no_other_plan(tmp_path: Path) -> None:
    config = tiny_config()
    layout = Layout.at(tmp_path)
    plan(layout, DAY, config)
    path = layout.run(DAY) / "plan.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match=r"plan\.json is damaged: .*; remove it and run feedsr"):
        plan(layout, DAY, config)


def test_a_version_without_its_configuration_is_a_cold_start(tmp_path: Path) -> None:
    config = tiny_config()
    layout = root_with_production(tmp_path, config)
    (layout.registry / "versions" / VERSION / "config.json").unlink()
    assert "configuration changed" in plan(layout, DAY, config).reason
