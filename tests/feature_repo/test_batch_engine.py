# SPDX-License-Identifier: Apache-2.0
"""Feast's own commands bring online what the loop's step does, a slice at a time."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components.features.histories import histories
from components.features.offline import features
from components.features.online import materialize, online_histories, push_history
from components.features.store import apply_store, open_store
from components.layout.files import write_parquet
from components.layout.paths import Layout
from feature_repo import batch_engine as module
from feature_repo import online_slices
from feature_repo.batch_engine import SlicedEngine
from feature_repo.spec import DAY_MS
from tests.log_builders import build_run, random_log, small_config
from tests.loop_builders import online_rows
from tests.online_builders import CONFIG, SPEC, assert_online_is_offline, redis_server

FEAST = Path(sys.executable).with_name("feast")
ROOT = Path(__file__).parents[2]
INCREMENTAL = "materialize-incremental"


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
    """`feast materialize` through a day, and `materialize-incremental` through each of the next."""
    ours, theirs = Layout.at(tmp_path / "ours"), Layout.at(tmp_path / "theirs")
    *earlier, first, second, third = declared_late(21, ours, theirs)
    apply_store(theirs, SPEC, open_store(theirs, CONFIG))
    for _, build in earlier:
        build()
    for day, build in (first, second, third):
        build()
        materialize(ours, day, CONFIG)
        start = ["materialize", "1970-01-01T00:00:00"] if day == first[0] else [INCREMENTAL]
        feast(theirs, *start, written(SPEC.day_end(day)))
        assert online_rows(theirs) == online_rows(ours)
    assert min(late_rows(ours, day) for day, _ in (second, third)) > 0, "posts declared late"
    assert_online_is_offline(theirs, theirs.impression_days())


@pytest.mark.law
@pytest.mark.parametrize("seed", range(3))
def test_day_by_day_is_the_newest_row_of_each_key(tmp_path: Path, seed: int) -> None:
    """Also of posts that were declared after the day in which they were made."""
    layout, days = Layout.at(tmp_path), []
    for day, build in declared_late(seed, layout):
        build()
        days.append(day)
        store = open_store(layout, CONFIG)
        end = datetime.fromtimestamp(SPEC.day_end(day) / 1000, UTC)
        if len(days) == 1:
            apply_store(layout, SPEC, store)
            store.materialize(datetime(1970, 1, 1, tzinfo=UTC), end)
        store.materialize_incremental(end)
        assert_online_is_offline(layout, days)
    assert sum(late_rows(layout, day) for day in days[1:]) > 1, "posts were declared late"


def declared_late(seed: int, *layouts: Layout) -> Iterator[tuple[str, Callable[[], None]]]:
    """The days of a log, each with what builds it; each declares a post more than before."""
    log = random_log(SPEC, seed, rows=160, members=9)
    (days, *_) = [log.write(layout) for layout in layouts]

    def build(day: str, posts: int) -> None:
        for layout in layouts:
            write_parquet(layout.posts, log.posts.slice(0, posts))
            features(layout, day, CONFIG)
            histories(layout, day, CONFIG)

    for number, day in enumerate(days, 1):
        yield day, partial(build, day, log.posts.num_rows - len(days) + number)


def late_rows(layout: Layout, day: str) -> int:
    """How many rows of a day's posts are older than the day."""
    times = pq.read_table(layout.feature_day("post_content", day))["event_timestamp"]
    start = SPEC.day_end(day) - DAY_MS
    return sum(when.timestamp() * 1000 < start for when in times.to_pylist())


def test_an_increment_reads_the_files_of_its_days_alone(tmp_path, monkeypatch):
    layout = Layout.at(tmp_path)
    days = build_run(layout, random_log(SPEC, 25, members=4, days=4), CONFIG)
    materialize(layout, days[-2], CONFIG)
    read, slices = {}, module.slices
    monkeypatch.setattr(
        module,
        "slices",
        lambda view, files, interval: (
            read.update({view.name: [file.stem for file in files]}) or slices(view, files, interval)
        ),
    )
    materialize(layout, days[-1], CONFIG)
    assert read.pop("history") == [path.stem for path in layout.history_buckets()]
    assert read == {view.name: [f"day={days[-1]}"] for view in SPEC.views}


@pytest.mark.law
def test_an_older_interval_takes_no_key_back(tmp_path):
    """In SQLite, which writes whatever it is told to; Redis refuses what is no newer."""
    layout = Layout.at(tmp_path)
    days = build_run(layout, random_log(SPEC, 26, members=4), CONFIG)
    materialize(layout, days[-1], CONFIG)
    before, store = online_rows(layout), open_store(layout, CONFIG)
    for end in (SPEC.day_end(days[0]), SPEC.day_end(days[-1])):
        end_date = datetime.fromtimestamp(end / 1000, UTC)
        store.materialize(datetime(1970, 1, 1, tzinfo=UTC), end_date)
        assert online_rows(layout) == before


def written(time_ms: int) -> str:
    """A time as Feast's commands take it."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A root whose materialization was killed in the affinity view, after three slices of two."""
    layout, write = Layout.at(tmp_path), SlicedEngine._write
    days = build_run(layout, random_log(SPEC, 27, members=12), CONFIG)
    slices = []

    def dies(self, view, rows, look):
        slices.append(view.name)
        if slices.count("affinity") == 4:
            raise KeyboardInterrupt
        write(self, view, rows, look)

    monkeypatch.setattr(online_slices, "SLICE_ROWS", 2)
    with monkeypatch.context() as patch:
        patch.setattr(SlicedEngine, "_write", dies)
        with pytest.raises(KeyboardInterrupt):
            materialize(layout, days[-1], CONFIG)
    return layout


@pytest.mark.law
def test_killed_and_the_store_emptied_it_starts_over(killed: Layout) -> None:
    with closing(sqlite3.connect(killed.feast / "online_store.db")) as store:
        store.execute("delete from feedsr_affinity")
        store.commit()
    days = killed.impression_days()
    materialize(killed, days[-1], CONFIG)
    assert_online_is_offline(killed, days)


@pytest.mark.law
@pytest.mark.redis
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="there is no redis-server on PATH")
def test_killed_and_the_store_another_it_starts_over(killed: Layout, monkeypatch) -> None:
    """A redis-server in place of SQLite."""
    config, days = small_config(SPEC, online_store="redis"), killed.impression_days()
    with redis_server(killed.root) as address:
        monkeypatch.setenv("FEEDSR_REDIS", address)
        materialize(killed, days[-1], config)
        assert_online_is_offline(killed, days, config)


def test_killed_and_newer_rows_written_since_it_goes_on(killed: Layout, monkeypatch) -> None:
    with closing(sqlite3.connect(killed.feast / "online_store.db")) as store:
        store.execute("update feedsr_affinity set event_ts = event_ts + 1")
        store.commit()
    write, written = SlicedEngine._write, []
    monkeypatch.setattr(
        SlicedEngine,
        "_write",
        lambda self, view, *rest: written.append(view.name) or write(self, view, *rest),
    )
    days = killed.impression_days()
    rows = materialize(killed, days[-1], CONFIG)["affinity"]
    assert written.count("affinity") == -(-rows // 2) - 3
    assert_online_is_offline(killed, days)


@pytest.mark.law
def test_killed_between_two_slices_it_goes_on_where_it_stopped(tmp_path, monkeypatch):
    layout = Layout.at(tmp_path)
    days = build_run(layout, random_log(SPEC, 22, members=12), CONFIG)
    monkeypatch.setattr(online_slices, "SLICE_ROWS", 2)
    write, slices = SlicedEngine._write, []

    def dies(self, view, rows, look):
        if view.name == "history":
            slices.append(rows.num_rows)
            if len(slices) == 4:
                raise KeyboardInterrupt
        write(self, view, rows, look)

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
