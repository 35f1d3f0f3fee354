# SPDX-License-Identifier: Apache-2.0
"""Law 8 for counters: a day's rows are the same, carried from day to day or counted at once."""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.features import counting
from components.features.counter_state import only_windows
from components.features.counters import count_as_of, windows
from components.features.counting import Counting
from components.features.offline import features
from components.features.state import Origin
from components.layout.files import write_parquet
from components.layout.paths import Layout
from components.log import buckets as dealing
from components.log.columns import column
from components.log.impressions import with_content
from feature_repo.kinds import View
from feature_repo.spec import DAY_MS
from tests.log_builders import Log, random_log, small_config, small_spec

SPEC = small_spec("simulator")
VIEWS = [view for view in SPEC.views if view.kind == "counters"]
Rows = dict[str, dict[tuple[int, ...], bytes]]


def at_once(log: Log, posts: pa.Table, since_day: str | None, day: str) -> Rows:
    """The rows of a day by the one-shot code over the whole log, with the posts of then."""
    end = SPEC.day_end(day)
    since = SPEC.day_end(since_day) if since_day else None
    known = log.impressions.filter(pa.array(column(log.impressions, "arrival_time") < end))
    impressions = with_content(known, posts, SPEC)
    rows: Rows = {}
    for view in VIEWS:
        changed = impressions.filter(pa.array(moved(impressions, view, since, end)))
        keys = changed.select(list(view.keys)).group_by(list(view.keys)).aggregate([])
        values = count_as_of(impressions, view, keys, np.full(len(keys), end), SPEC)
        names = [tuple(key.values()) for key in keys.to_pylist()]
        rows[view.name] = {k: v.tobytes() for k, v in zip(names, values, strict=True)}
    return rows


def moved(impressions: pa.Table, view: View, since: int | None, end: int) -> np.ndarray:
    """Which impressions arrived in a span or left one of the view's windows in it."""
    arrival, event = (column(impressions, n) for n in ("arrival_time", "event_time"))
    timed = column(impressions, "timed").astype(bool)
    mask = np.ones(len(arrival), bool) if since is None else arrival >= since
    for days in windows(view) if since is not None else ():
        leaves = event + days * DAY_MS
        mask |= timed & (leaves >= since) & (leaves < end)
    return mask & timed if only_windows(view) else mask


def written(layout: Layout, day: str) -> Rows:
    """The rows of a day's files."""
    rows: Rows = {}
    for view in VIEWS:
        table = pq.read_table(layout.feature_day(view.name, day))
        keys = list(zip(*(table[key].to_pylist() for key in view.keys), strict=True))
        rows[view.name] = dict(zip(keys, table["packed"].to_pylist(), strict=True))
        assert len(rows[view.name]) == table.num_rows
        assert set(table["event_timestamp"].cast(pa.int64()).to_pylist()) <= {
            SPEC.day_end(day) * 1000
        }
    return rows


@pytest.mark.law
@given(
    seed=st.integers(0, 2**32),
    buckets=st.sampled_from([1, 3]),
    skipped=st.sets(st.integers(0, 9), max_size=5),
    held=st.sampled_from([7, 10**6]),
    lost=st.none() | st.integers(1, 9),
    together=st.sampled_from([0, 10**6]),
)
@settings(deadline=None, max_examples=8)
def test_carried_day_by_day_is_counted_at_once(
    seed, buckets, skipped, held, lost, together, tmp_path_factory
):
    layout = Layout.at(tmp_path_factory.mktemp("run"))
    log, config = random_log(SPEC, seed, days=10), small_config(SPEC, buckets=buckets)
    days, since_day, before = log.write(layout), None, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dealing, "ROWS_IN_MEMORY", held)
        patch.setattr(counting, "TOGETHER_ROWS", together)
        for place, day in enumerate(days):
            if place in skipped and day != days[-1]:
                continue
            # A post is declared days after it was shown first, some never.
            declared = column(log.posts, "post_id") * 2 <= place + 3
            posts = log.posts.filter(pa.array(declared))
            write_parquet(layout.posts, posts)
            if place == lost:
                shutil.rmtree(layout.state("post_popularity"), ignore_errors=True)
                shutil.rmtree(layout.state("unknown_posts"), ignore_errors=True)
            features(layout, day, config)
            before[day] = at_once(log, posts, since_day, day)
            assert written(layout, day) == before[day]
            since_day = day
        features(layout, days[-1], config)
    assert {day: written(layout, day) for day in before} == before, "a day run twice"


@pytest.mark.law
def test_an_older_day_again_leaves_its_rows_and_the_newer_state(tmp_path):
    layout, log = Layout.at(tmp_path), random_log(SPEC, 3, days=5)
    config, days = small_config(SPEC, buckets=2), log.write(layout)
    for day in days:
        features(layout, day, config)
    states = {p: p.read_bytes() for p in sorted((tmp_path / "state").rglob("*.parquet"))}
    rows = {day: written(layout, day) for day in days}
    for day in (days[0], days[2]):
        for view in VIEWS:
            layout.feature_day(view.name, day).unlink()
        features(layout, day, config)
    assert {day: written(layout, day) for day in days} == rows
    assert {p: p.read_bytes() for p in sorted((tmp_path / "state").rglob("*.parquet"))} == states


@pytest.mark.law
@pytest.mark.parametrize("at", [2, 6])
@pytest.mark.parametrize("together", [0, 10**6])
def test_killed_between_two_buckets_it_goes_on(at, together, tmp_path, monkeypatch):
    layout, log = Layout.at(tmp_path / "run"), random_log(SPEC, 4, days=4)
    config, days = small_config(SPEC, buckets=3), log.write(layout)
    for day in days[:-1]:
        features(layout, day, config)
    whole = Layout.at(shutil.copytree(layout.root, tmp_path / "whole"))
    features(whole, days[-1], config)
    write, buckets = Counting._write, []
    monkeypatch.setattr(counting, "TOGETHER_ROWS", together)

    def dies(self, bucket, *rest):
        buckets.append(bucket)
        if len(buckets) == at:
            raise KeyboardInterrupt
        write(self, bucket, *rest)

    monkeypatch.setattr(Counting, "_write", dies)
    with pytest.raises(KeyboardInterrupt):
        features(layout, days[-1], config)
    monkeypatch.setattr(Counting, "_write", write)
    features(layout, days[-1], config)
    assert written(layout, days[-1]) == at_once(log, log.posts, days[-2], days[-1])
    paths = [*layout.root.glob("state/**/*.parquet"), *layout.root.glob("features/**/*.parquet")]
    files = [path.relative_to(layout.root) for path in paths]
    assert len(files) > 3 * len(VIEWS)
    same = [(whole.root / file).read_bytes() == (layout.root / file).read_bytes() for file in files]
    assert all(same)


@pytest.mark.law
def test_buckets_carried_together_are_the_same_bytes(tmp_path, monkeypatch):
    log, config = random_log(SPEC, 7, days=6), small_config(SPEC, buckets=3)
    files = []
    for together in (0, 10**6):
        monkeypatch.setattr(counting, "TOGETHER_ROWS", together)
        layout = Layout.at(tmp_path / str(together))
        days = log.write(layout)
        for place, day in enumerate(days):
            declared = column(log.posts, "post_id") * 2 <= place + 3
            write_parquet(layout.posts, log.posts.filter(pa.array(declared)))
            features(layout, day, config)
        paths = [p for p in sorted(layout.root.rglob("*.parquet")) if "raw" not in p.parts]
        files.append({str(p.relative_to(layout.root)): p.read_bytes() for p in paths})
    assert len(files[0]) > 3 * len(VIEWS)
    assert files[0] == files[1]


@pytest.mark.law
def test_posts_that_are_declared_after_the_day_ran_count_when_it_runs_again(tmp_path):
    layout, log = Layout.at(tmp_path), random_log(SPEC, 5, days=3)
    config, days = small_config(SPEC), log.write(layout)
    early = log.posts.filter(pa.array(column(log.posts, "post_id") > 3))
    for posts in (early, log.posts):
        write_parquet(layout.posts, posts)
        for day in days[:2] if posts is early else days[1:]:
            features(layout, day, config)
    for since_day, day in itertools.pairwise(days):
        assert written(layout, day) == at_once(log, log.posts, since_day, day)


def test_another_number_of_buckets_is_another_state(tmp_path):
    layout, log = Layout.at(tmp_path), random_log(SPEC, 6, days=3)
    days = log.write(layout)
    for day, buckets in zip(days[-3:], (2, 5, 1), strict=True):
        features(layout, day, small_config(SPEC, buckets=buckets))
        for view in VIEWS:
            paths = sorted(layout.state(view.name).glob("*.parquet"))
            assert len(paths) == buckets
            origins = [Origin.of_file(path) for path in paths]
            assert {origin.day for origin in origins if origin} == {day}
    assert written(layout, days[-1]) == at_once(log, log.posts, days[-2], days[-1])
