# SPDX-License-Identifier: Apache-2.0
"""What the demo refuses before it runs anything; the loop it runs has tests of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.layout.files import write_json
from components.loop.demo import demo
from components.loop.steps import run_step
from tests.loop_builders import tiny_config, tiny_log, write_config


def test_a_root_with_another_demo_is_left_alone(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"config": "demo", "log": "9 simulated days"})
    with pytest.raises(ValueError, match="holds a run on 9 simulated days: remove it"):
        demo(None, 8, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_root_with_a_log_of_its_own_is_left_alone(tmp_path: Path) -> None:
    layout = tiny_log(tmp_path / "root", days=2)
    config = write_config(tmp_path / "loop.json", tiny_config())
    run_step("ingest", str(layout.root), layout.raw_days()[-1], config)
    before = layout.raw_day(layout.raw_days()[0]).read_bytes()
    with pytest.raises(ValueError, match="holds a run on another log"):
        demo(None, 9, layout.root)
    assert layout.raw_day(layout.raw_days()[0]).read_bytes() == before


def test_a_damaged_note_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"log": "9 simulated days"')
    with pytest.raises(ValueError, match=r"config\.json is damaged: .*; remove the root or choose"):
        demo(None, 9, tmp_path)
    write_json(tmp_path / "config.json", {"config": "demo"})
    with pytest.raises(ValueError, match="holds a run on another log"):
        demo(None, 9, tmp_path)


def test_a_log_too_short_for_two_days_is_one_sentence(tmp_path: Path) -> None:
    source = tiny_log(tmp_path / "source", days=2)
    log = tmp_path / "log"
    log.mkdir()
    source.raw_posts.rename(log / "posts.parquet")
    source.raw_members.rename(log / "members.parquet")
    for day in source.raw_days():
        source.raw_day(day).rename(log / f"impressions-{day}.parquet")
    config = write_config(tmp_path / "loop.json", tiny_config())
    root = tmp_path / "root"
    with pytest.raises(ValueError, match="has 2 days"):
        demo(log, 9, root, config)
    assert not (root / "runs").exists()
    assert json.loads((root / "config.json").read_text())["config"] == str(tmp_path / "loop.json")
