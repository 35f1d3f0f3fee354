# SPDX-License-Identifier: Apache-2.0
"""The offline rows of a day."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.features import offline, unknown_posts
from components.features.counters import count_as_of
from components.features.offline import features
from components.layout.files import write_parquet
from components.layout.paths import Layout
from components.log.columns import column
from components.log.impressions import with_content
from feature_repo.kinds import View
from tests.feature_files import read_packed
from tests.log_builders import Log, build_run, random_log, small_config, small_spec

SPEC = small_spec("simulator")
CONFIG = small_config(SPEC)


def digests(layout: Layout) -> dict[str, str]:
    files = sorted(layout.root.glob("features/**/*.parquet"))
    return {
        str(f.relative_to(layout.root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    }


def latest(layout: Layout, name: str, days: list[str]) -> dict[tuple, bytes]:
    """Each key's newest value over some days, as a point-in-time join takes it."""
    rows: dict[tuple, bytes] = {}
    for day in days:
        for row in pq.read_table(layout.feature_day(name, day)).to_pylist():
            key = tuple(v for k, v in row.items() if k.endswith("_id"))
            rows[key] = row["packed"]
    return rows


@pytest.mark.law
@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=3)
def test_a_days_rows_are_the_counters_as_of_its_end(seed, tmp_path_factory):
    layout = Layout.at(tmp_path_factory.mktemp("run"))
    log = random_log(SPEC, seed, rows=80, days=12)
    days = build_run(layout, log, CONFIG)
    impressions = with_content(log.impressions, log.posts, SPEC)
    for view in (v for v in SPEC.views if v.kind == "counters"):
        for i in (0, len(days) // 2, len(days) - 1):
            keys = impressions.select(list(view.keys)).group_by(list(view.keys)).aggregate([])
            cutoff = np.full(len(keys), SPEC.day_end(days[i]))
            expected = count_as_of(impressions, view, keys, cutoff, SPEC)
            have = latest(layout, view.name, days[: i + 1])
            for key, record in zip(keys.to_pylist(), expected, strict=True):
                got = have.get(tuple(key.values()), view.default.tobytes())
                assert got == record.tobytes(), (view.name, days[i], key)


def test_a_day_that_is_run_again_leaves_the_same_bytes(tmp_path):
    layout = Layout.at(tmp_path)
    days = build_run(layout, random_log(SPEC, 1), CONFIG)
    before = digests(layout)
    for day in (days[1], days[-1], days[0]):
        features(layout, day, CONFIG)
    assert digests(layout) == before


def test_rows_say_when_they_hold_and_only_changes_are_written(tmp_path):
    layout = Layout.at(tmp_path)
    log = random_log(SPEC, 2)
    days = build_run(layout, log, CONFIG)
    table, _ = read_packed(layout, SPEC.view("member_activity"), days[1])
    assert set(table["event_timestamp"].cast(pa.int64()).to_pylist()) == {
        SPEC.day_end(days[1]) * 1000
    }
    assert table["created_timestamp"].equals(table["event_timestamp"])
    arrived = pq.read_table(layout.impressions_day(days[1]))
    assert table["member_id"].to_pylist() == sorted(set(arrived["member_id"].to_pylist()))
    assert pq.read_table(layout.feature_day("member_profile", days[1])).num_rows == 0


def test_content_holds_from_creation_and_a_change_from_the_days_end(tmp_path):
    layout = Layout.at(tmp_path)
    log = random_log(SPEC, 3)
    days = build_run(layout, log, CONFIG)
    first = pa.concat_tables(read_packed(layout, SPEC.content, d)[0] for d in days)
    created = np.maximum(column(log.posts, "created_ms"), 0) * 1000
    assert first.sort_by("post_id")["post_id"].equals(log.posts["post_id"])
    times = first.sort_by("post_id")["event_timestamp"].cast(pa.int64())
    assert times.to_pylist() == created.tolist()
    place = log.posts.schema.get_field_index("length_s")
    length = column(log.posts, "length_s").copy()
    length[2] += 1
    posts = log.posts.set_column(place, log.posts.schema.field(place), pa.array(length))
    write_parquet(layout.posts, posts)
    features(layout, days[-1], CONFIG)
    changed, values = read_packed(layout, SPEC.content, days[-1])
    assert changed["post_id"].to_pylist() == [log.posts["post_id"][2].as_py()]
    assert values["length_s"].tolist() == [length[2]]
    assert changed["event_timestamp"].cast(pa.int64()).to_pylist() == [
        SPEC.day_end(days[-1]) * 1000
    ]


@pytest.mark.law
@pytest.mark.parametrize("window", [7, 30, 90, 365])
def test_an_event_leaves_each_window_on_its_day_though_nobody_comes(window, tmp_path):
    layout = Layout.at(tmp_path)
    log = random_log(SPEC, 6, rows=20, days=1)
    timed = log.impressions.filter(log.impressions["timed"])
    (first,) = Log(SPEC, timed, log.posts, log.members).write(layout)
    features(layout, first, CONFIG)
    view, name = SPEC.view("affinity"), f"affinity_impressions_{window}d"
    rows, values = read_packed(layout, view, first)
    assert values[name].sum() > 0
    # As of the end of day 0 + window the window begins where day 0 ended.
    before, leaves = (SPEC.day_name(SPEC.day_number(first) + window + d) for d in (-1, 0))
    for day in (before, leaves):
        write_parquet(layout.impressions_day(day), timed.slice(0, 0))
        features(layout, day, CONFIG)
    keys = set(keys_of(rows, view))
    have = latest(layout, view.name, [first, before])
    assert {k: np.frombuffer(v, view.dtype)[name].item() for k, v in have.items()} == dict(
        zip(keys_of(rows, view), values[name].tolist(), strict=True)
    )
    rows, values = read_packed(layout, view, leaves)
    assert set(keys_of(rows, view)) == keys
    assert values[name].tolist() == [0.0] * len(keys)


def keys_of(rows: pa.Table, view: View) -> list[tuple]:
    return list(zip(*(rows[k].to_pylist() for k in view.keys), strict=True))


@pytest.mark.law
def test_a_later_members_profile_holds_from_the_day_that_brought_it(tmp_path):
    """Law 4: what an impression is joined with was known when it was served."""
    layout = Layout.at(tmp_path)
    log = random_log(SPEC, 5)
    days = Log(SPEC, log.impressions, log.posts, log.members.slice(1)).write(layout)
    features(layout, days[0], CONFIG)
    write_parquet(layout.members, log.members)
    for day in days[1:]:
        features(layout, day, CONFIG)
    first, second = (read_packed(layout, SPEC.view("member_profile"), d)[0] for d in days[:2])
    assert set(first["event_timestamp"].cast(pa.int64()).to_pylist()) == {0}
    assert second["member_id"].to_pylist() == [1]
    assert second["event_timestamp"].cast(pa.int64()).to_pylist() == [SPEC.day_end(days[1]) * 1000]


def test_posts_made_after_the_day_are_not_in_it(tmp_path):
    layout = Layout.at(tmp_path)
    log = random_log(SPEC, 4)
    created = column(log.posts, "created_ms").copy()
    created[0] = 2**45
    place = log.posts.schema.get_field_index("created_ms")
    posts = log.posts.set_column(place, log.posts.schema.field(place), pa.array(created))
    days = build_run(layout, Log(SPEC, log.impressions, posts, log.members), CONFIG)
    rows = latest(layout, "post_content", days)
    assert (posts["post_id"][0].as_py(),) not in rows
    assert len(rows) == posts.num_rows - 1


def test_without_impressions_it_says_what_to_do(tmp_path: Path):
    with pytest.raises(ValueError, match="run ingest first"):
        features(Layout.at(tmp_path), "2022-05-01", CONFIG)


def test_who_was_declared_since_is_asked_once_a_day(tmp_path, monkeypatch):
    layout, asked = Layout.at(tmp_path), []

    def declared_since(layout, since_day, key):
        asked.append(since_day)
        return unknown_posts.declared_since(layout, since_day, key)

    days = random_log(SPEC, 3, rows=60, days=3).write(layout)
    monkeypatch.setattr(offline, "declared_since", declared_since)
    for day in days:
        features(layout, day, CONFIG)
    assert asked == [None, *days[:-1]]
