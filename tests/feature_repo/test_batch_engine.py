# SPDX-License-Identifier: Apache-2.0
"""Feast's own commands bring online what the loop's step does, a slice at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from components.features.histories import histories
from components.features.offline import features
from components.features.online import materialize, online_histories, push_history
from components.features.store import apply_store, open_store
from components.layout.paths import Layout
from feature_repo import batch_engine as module
from feature_repo.batch_engine import SlicedEngine, source_files
from tests.log_builders import build_run, random_log
from tests.loop_builders import online_rows
from tests.online_builders import CONFIG, SPEC, assert_online_is_offline

FEAST = Path(sys.executable).with_name("feast")
ROOT = Path(__file__).parents[2]


def feast(layout: Layout, *arguments: str) -> None:
    """One of Feast's commands in a run's rendered repository."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [FEAST, *arguments],
        cwd=layout.feast,
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.law
@pytest.mark.slow
def test_the_commands_bring_the_rows_that_the_step_brings(tmp_path: Path) -> None:
    """`feast materialize` through one day, and `materialize-incremental` through the next."""
    ours, theirs = Layout.at(tmp_path / "ours"), Layout.at(tmp_path / "theirs")
    log = random_log(SPEC, 21, rows=160, members=9)
    days = log.write(ours)
    log.write(theirs)
    for layout in (ours, theirs):
        for day in days[:-1]:
            features(layout, day, CONFIG)
            histories(layout, day, CONFIG)
    materialize(ours, days[-2], CONFIG)
    apply_store(theirs, SPEC, open_store(theirs, CONFIG))
    feast(theirs, "materialize", "1970-01-01T00:00:00", written(SPEC.day_end(days[-2])))
    assert online_rows(theirs) == online_rows(ours)
    for layout in (ours, theirs):
        features(layout, days[-1], CONFIG)
        histories(layout, days[-1], CONFIG)
    materialize(ours, days[-1], CONFIG)
    feast(theirs, "materialize-incremental", written(SPEC.day_end(days[-1])))
    assert online_rows(theirs) == online_rows(ours)
    assert_online_is_offline(ours, days)


def written(time_ms: int) -> str:
    """A time as Feast's commands take it."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@pytest.mark.law
def test_killed_between_two_slices_it_goes_on_where_it_stopped(tmp_path, monkeypatch):
    layout = Layout.at(tmp_path)
    days = build_run(layout, random_log(SPEC, 22, members=12), CONFIG)
    monkeypatch.setattr(module, "SLICE_ROWS", 2)
    write, slices = SlicedEngine._write, []

    def dies(self, view, rows):
        if view.name == "history":
            slices.append(rows.num_rows)
            if len(slices) == 4:
                raise KeyboardInterrupt
        write(self, view, rows)

    monkeypatch.setattr(SlicedEngine, "_write", dies)
    with pytest.raises(KeyboardInterrupt):
        materialize(layout, days[-1], CONFIG)
    before = len(slices)
    materialize(layout, days[-1], CONFIG)
    assert slices[before - 1 :] == slices[before - 1 :][:1] * (len(slices) - before + 1)
    assert sum(slices) - slices[before - 1] == 12, "no slice twice but the one that was cut off"
    assert_online_is_offline(layout, days)
    assert not list((layout.feast / "materializing").iterdir())


def test_a_push_that_is_newer_than_the_row_stays(tmp_path):
    layout, log = Layout.at(tmp_path), random_log(SPEC, 23, rows=80, members=4)
    days = build_run(layout, log, CONFIG)
    store = open_store(layout, CONFIG)
    materialize(layout, days[-1], CONFIG)
    newest = online_histories(store, [1, 2, 3, 4])
    other = Layout.at(tmp_path / "other")
    shutil.copytree(layout.root / "impressions", other.root / "impressions")
    for name in ("posts.parquet", "members.parquet"):
        shutil.copy(layout.root / name, other.root / name)
    for day in days[:-1]:
        features(other, day, CONFIG)
        histories(other, day, CONFIG)
    materialize(other, days[-2], CONFIG)
    behind = open_store(other, CONFIG)
    assert push_history(behind, newest, SPEC.day_end(days[-1]), SPEC)
    (other.root / "ledger" / "online.json").unlink()
    materialize(other, days[-2], CONFIG)
    assert online_histories(behind, [1, 2, 3, 4]) == newest


def test_the_files_of_a_source_come_in_order(tmp_path):
    for name in ("day=2", "day=10", "bucket=1", "day=1"):
        (tmp_path / f"{name}.parquet").touch()
    names = [path.stem for path in source_files(f"{tmp_path}/day=*.parquet")]
    assert names == ["day=1", "day=10", "day=2"]
