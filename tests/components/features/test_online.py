# SPDX-License-Identifier: Apache-2.0
"""Feast's online store, on a real SQLite file."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pyarrow as pa
import pytest

from components.features import online as module
from components.features.histories import histories
from components.features.history_columns import encode_histories
from components.features.offline import features
from components.features.online import materialize, online_histories, push_history
from components.features.store import open_store
from components.layout.files import write_parquet
from components.layout.paths import Layout
from components.log.columns import column
from components.log.impressions import history_order, with_content
from serving.history import decode_history, history_as_of
from serving.transformer.store_client import StoreClient
from tests.log_builders import Log, build_run, random_log, small_config
from tests.online_builders import (
    CONFIG,
    SPEC,
    assert_online_is_offline,
    change_the_log,
    flipped,
    free_port,
    offline,
    online,
)


@pytest.fixture
def layout(tmp_path):
    return Layout.at(tmp_path)


@pytest.mark.law
@pytest.mark.parametrize("seed", [0, 1])
def test_the_history_online_is_the_one_built_offline_byte_for_byte(layout, seed):
    log = random_log(SPEC, seed)

    def bring_online(days: list[str]) -> None:
        materialize(layout, days[-1], CONFIG)
        assert_online_is_offline(layout, days)

    days = build_run(layout, log, CONFIG, bring_online)
    impressions = history_order(with_content(log.impressions, log.posts, SPEC))
    for member, value in online(layout)["history"].items():
        history = decode_history(value, SPEC)
        mine = column(impressions, "member_id") == member
        assert (history.member_id, history.count) == (member, mine.sum())
        cutoff = SPEC.day_end(days[-2])
        arrival = column(impressions, "arrival_time")[mine][history.start :]
        known = history_as_of(history.batch, history.count, cutoff)
        assert column(known, "arrival_time").tolist() == arrival[arrival < cutoff].tolist()


@pytest.mark.law
def test_a_day_that_is_run_again_or_after_a_crash_leaves_the_same_store(layout, monkeypatch):
    def bring_second_online(days: list[str]) -> None:
        if len(days) == 2:
            materialize(layout, days[-1], CONFIG)

    days = build_run(layout, random_log(SPEC, 2), CONFIG, bring_second_online)
    whole = module._materialize_view

    def dies_at_affinity(layout, store, name, *rest):
        if name == "affinity":
            raise KeyboardInterrupt
        return whole(layout, store, name, *rest)

    monkeypatch.setattr(module, "_materialize_view", dies_at_affinity)
    with pytest.raises(KeyboardInterrupt):
        materialize(layout, days[-1], CONFIG)
    monkeypatch.undo()
    materialize(layout, days[-1], CONFIG)
    assert_online_is_offline(layout, days)
    first = online(layout)
    assert materialize(layout, days[-1], CONFIG)["history"] > 0
    assert online(layout) == first


def test_an_older_day_never_brings_the_store_back(layout):
    days = build_run(layout, random_log(SPEC, 3), CONFIG)
    materialize(layout, days[-1], CONFIG)
    before = online(layout)
    assert set(materialize(layout, days[-2], CONFIG).values()) == {0}
    assert online(layout) == before


@pytest.mark.law
def test_older_days_that_were_written_anew_come_online(layout):
    change_the_log(layout, CONFIG)


@pytest.mark.law
def test_files_that_are_gone_as_they_are_old_take_no_row_away(layout):
    """Of a key without news since nothing else is left."""
    days = build_run(layout, random_log(SPEC, 15, rows=60, members=12, days=6), CONFIG)
    materialize(layout, days[-2], CONFIG)
    before = online(layout)["affinity"]
    for day in days[:-2]:
        layout.feature_day("affinity", day).unlink()
    written = materialize(layout, days[-1], CONFIG)["affinity"]
    news = offline(layout, "affinity", "packed", days[-1:])
    assert written == len(news)
    assert len(news) < len([value for value in before.values() if value])
    assert online(layout)["affinity"] == {k: news.get(k, value) for k, value in before.items()}


@pytest.mark.law
def test_a_crash_while_a_view_is_filled_anew_leaves_the_same_store(layout, monkeypatch):
    log = random_log(SPEC, 12, rows=40, members=12, posts=9, days=9)
    days = build_run(layout, log, CONFIG)
    materialize(layout, days[-1], CONFIG)
    build_run(layout, flipped(log), CONFIG)
    for step in ("_empty", "_bring_online"):
        with monkeypatch.context() as patch:
            patch.setattr(module, step, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                materialize(layout, days[-1], CONFIG)
    materialize(layout, days[-1], CONFIG)
    assert_online_is_offline(layout, days)


def test_a_store_that_lost_its_rows_is_filled_again(layout):
    days = build_run(layout, random_log(SPEC, 13, members=12, days=6), CONFIG)
    materialize(layout, days[-1], CONFIG)
    (layout.feast / "online_store.db").unlink()
    materialize(layout, days[-1], CONFIG)
    assert_online_is_offline(layout, days)


@pytest.mark.law
def test_a_store_that_another_root_filled_is_filled_again(layout, tmp_path_factory):
    """At the same address: of its rows none stays, though they look newer than what was built."""
    other = Layout.at(tmp_path_factory.mktemp("other"))
    days = build_run(layout, random_log(SPEC, 13, members=12, days=6), CONFIG)
    materialize(layout, days[-1], CONFIG)
    longer = build_run(other, random_log(SPEC, 14, rows=400, members=12, days=8), CONFIG)
    materialize(other, longer[-1], CONFIG)
    shutil.copy(other.feast / "online_store.db", layout.feast / "online_store.db")
    with pytest.raises(AssertionError):
        assert_online_is_offline(layout, days)
    materialize(layout, days[-1], CONFIG)
    assert_online_is_offline(layout, days)


def build(layout: Layout, day: str) -> None:
    """The features and histories of a day."""
    features(layout, day, CONFIG)
    histories(layout, day, CONFIG)


def pushed_values(log: Log, cutoff: int) -> dict[int, bytes]:
    """History values of everything that arrived before a cutoff."""
    impressions = with_content(log.impressions, log.posts, SPEC)
    impressions = impressions.filter(pa.array(column(impressions, "arrival_time") < cutoff))
    member = column(impressions, "member_id")
    _, place, counts = np.unique(member, return_inverse=True, return_counts=True)
    counted = impressions.append_column("count", pa.array(counts[place]))
    return dict(encode_histories(counted, SPEC))


def test_a_pushed_history_stays_until_the_day_that_has_it(layout):
    # In this log a member has news two days ago, none yesterday, and some this morning.
    log = random_log(SPEC, 6, rows=60, members=12)
    days = log.write(layout)
    for day in days[:-2]:
        build(layout, day)
    materialize(layout, days[-3], CONFIG)
    noon = SPEC.day_end(days[-2]) + 12 * 3_600_000
    fresh = pushed_values(log, noon)
    before, store = online(layout)["history"], open_store(layout, CONFIG)
    newer = sum(before.get(member) != value for member, value in fresh.items())
    assert newer > 0
    assert push_history(store, fresh, noon, SPEC) == newer
    assert push_history(store, fresh, noon, SPEC) == 0
    older = pushed_values(log, SPEC.day_end(days[-3]))
    assert push_history(store, older, noon, SPEC) == 0
    build(layout, days[-2])
    materialize(layout, days[-2], CONFIG)
    assert online(layout)["history"] == fresh
    build(layout, days[-1])
    materialize(layout, days[-1], CONFIG)
    assert_online_is_offline(layout, days)


def test_a_bad_history_is_not_pushed(layout):
    days = build_run(layout, random_log(SPEC, 5), CONFIG)
    materialize(layout, days[-1], CONFIG)
    before = online(layout)["history"]
    values = {1: before[1], 2: before[2][:-9]}
    with pytest.raises(ValueError, match="history value is damaged"):
        push_history(open_store(layout, CONFIG), values, 2**41, SPEC)
    assert online(layout)["history"] == before


def test_days_with_nothing_in_them_are_brought_online_as_such(layout):
    log = random_log(SPEC, 6)
    nothing = dataclasses.replace(
        log,
        impressions=log.impressions.slice(0, 0),
        posts=log.posts.slice(0, 0),
        members=log.members.slice(0, 0),
    )
    days = ["2022-04-18", "2022-04-19"]
    write_parquet(layout.posts, nothing.posts)
    write_parquet(layout.members, nothing.members)
    for day in days:
        write_parquet(layout.impressions_day(day), nothing.impressions)
        features(layout, day, CONFIG)
        histories(layout, day, CONFIG)
        assert set(materialize(layout, day, CONFIG).values()) == {0}
    store = open_store(layout, CONFIG)
    assert online_histories(store, []) == {}
    assert push_history(store, {}, 2**41, SPEC) == 0
    client = StoreClient(layout.feast, SPEC)
    assert client.as_of_ms("affinity") == SPEC.day_end(days[-1])
    assert client.read("history", []) == client.read_cached("affinity", []) == []
    assert client.read("history", [(1,)])[0].value is None


def test_a_day_without_features_says_what_to_run(layout):
    days = build_run(layout, random_log(SPEC, 6), CONFIG)
    layout.feature_day("affinity", days[-1]).unlink()
    with pytest.raises(ValueError, match=r"view affinity has no rows of .*; run features"):
        materialize(layout, days[-1], CONFIG)


def test_a_store_that_cannot_be_reached_is_one_sentence(layout, monkeypatch):
    days = build_run(layout, random_log(SPEC, 7, rows=20), CONFIG)
    monkeypatch.setenv("FEEDSR_REDIS", f"127.0.0.1:{free_port()}")
    with pytest.raises(ConnectionError, match=r"online store \(redis at 127.*cannot be reached"):
        materialize(layout, days[-1], small_config(SPEC, online_store="redis"))
