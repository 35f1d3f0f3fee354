# SPDX-License-Identifier: Apache-2.0
"""Sequences from windows are those from the whole log, byte for byte."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.config import DailyConfig
from components.features.context import AsOfContext
from components.features.histories import histories
from components.layout.paths import Layout
from components.log.columns import column
from components.log.impressions import with_content
from components.training import sequences as steps
from components.training.sequences import Cut, Work, write_sequences
from components.training.windows import (
    MemberLogs,
    RecentLogs,
    WholeLogs,
    logs_of_a_day,
    mark_loss,
    members_with_news,
)
from components.training.windows import member_logs as module
from feature_repo.spec import FRESHNESS
from tests.log_builders import Log, random_log, small_config, small_spec

SPEC = small_spec("kuairand")
CONFIG = small_config(SPEC, buckets=3)


def carried(layout: Layout, log: Log, config: DailyConfig, skipped: set[int] = frozenset()) -> list:
    """Writes a log and carries its windows through the days but some; returns the days."""
    days = log.write(layout)
    for place, day in enumerate(days):
        if place not in skipped or place == len(days) - 1:
            histories(layout, day, config)
    return days


def shards(logs: MemberLogs, log: Log, recent: RecentLogs, folder: Path) -> dict[str, bytes]:
    """The files of the sequences of some logs, to train from a watermark through a day."""
    spec, freshness = recent.config.spec, recent.config.freshness
    cut = Cut(
        mark=lambda rows: [mark_loss(rows, spec, recent.after_day, recent.through_day)],
        freshness=freshness,
        cap=False,
        as_of_ms=spec.day_end(recent.through_day),
    )
    content = with_content(log.impressions, log.posts, spec)
    context = AsOfContext(content, log.members, spec, freshness)
    write_sequences(Work(logs, cut, lambda: context), folder, spec.hash)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def whole(recent: RecentLogs) -> WholeLogs:
    spec = recent.config.spec
    wanted = members_with_news(spec, recent.after_day, recent.through_day)
    return WholeLogs(layout=recent.layout, day=recent.day, spec=spec, wanted=wanted)


@pytest.mark.law
@given(
    seed=st.integers(0, 2**32),
    freshness=st.sampled_from(FRESHNESS),
    buckets=st.sampled_from([1, 3]),
    skipped=st.sets(st.integers(0, 12)),
    back=st.tuples(st.integers(1, 6), st.integers(0, 1)),
    lost=st.sets(st.integers(0, 12)),
)
@settings(deadline=None, max_examples=10)
def test_windows_give_the_sequences_of_the_log(
    seed, freshness, buckets, skipped, back, lost, tmp_path_factory
):
    """Warm and eval, after a gate that refused, over skipped days, with dropped rows lost."""
    home = tmp_path_factory.mktemp("run")
    layout, config = Layout.at(home), small_config(SPEC, buckets=buckets, freshness=freshness)
    log = random_log(SPEC, seed, rows=400, members=5, days=12)
    days = carried(layout, log, config, skipped)
    for place in lost & set(range(len(days))):
        shutil.rmtree(layout.dropped_day(days[place]), ignore_errors=True)
    through = days[-1 - back[1]]
    after = days[-1 - back[1] - back[0]]
    recent = logs_of_a_day(layout, days[-1], config, after, through)
    assert isinstance(recent, RecentLogs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "CHUNK_ROWS", 150)
        expected = shards(whole(recent), log, recent, home / "whole")
        assert shards(recent, log, recent, home / "recent") == expected
    assert len(expected) > 1


@pytest.mark.law
@pytest.mark.parametrize("freshness", FRESHNESS)
def test_a_warm_day_reads_of_the_log_what_arrived_since_the_watermark(
    freshness, tmp_path, monkeypatch
):
    """Though rows came up to six days late; once what windows dropped is lost, it is looked for."""
    layout, config = Layout.at(tmp_path), small_config(SPEC, buckets=2, freshness=freshness)
    log = random_log(SPEC, 21, rows=600, members=3, days=11)
    days = log.write(layout)
    read: list[set[str]] = []
    opened = module.ImpressionLog

    def spy(layout, day, days=None):
        read.append(set(layout.impression_days() if days is None else days))
        return opened(layout, day, days)

    monkeypatch.setattr(module, "ImpressionLog", spy)
    for place, day in enumerate(days):
        histories(layout, day, config)
        if place < 2:
            continue
        for after, through in ((days[place - 2], days[place - 1]), (days[place - 1], day)):
            recent = logs_of_a_day(layout, day, config, after, through)
            read.clear()
            got = shards(recent, log, recent, tmp_path / "recent")
            assert read == [{d for d in days if d > after}]
            assert got == shards(whole(recent), log, recent, tmp_path / "whole")
    shutil.rmtree(layout.state("dropped"))
    recent = logs_of_a_day(layout, days[-1], config, days[-3], days[-2])
    read.clear()
    shards(recent, log, recent, tmp_path / "recent")
    assert read[1:] == [set(days)], "and once for all that are short"


def test_windows_that_do_not_fit_the_log_are_not_looked_at(tmp_path):
    layout, log = Layout.at(tmp_path), random_log(SPEC, 22, rows=300, days=5)
    days = carried(layout, log, CONFIG)

    def kind(place: int, config=CONFIG, after: str | None = days[0]) -> type:
        return type(logs_of_a_day(layout, days[place], config, after, days[place]))

    assert kind(-1) is RecentLogs
    assert kind(-1, after=None) is WholeLogs, "a cold start"
    assert kind(-2) is WholeLogs, "an older day that is run again"
    assert kind(-1, small_config(SPEC, buckets=2)) is WholeLogs
    layout.history_bucket(1).unlink()
    assert kind(-1) is WholeLogs
    histories(layout, days[-1], CONFIG)
    assert kind(-1) is RecentLogs
    dataclasses.replace(log, impressions=log.impressions.slice(0, 280)).write(layout)
    assert kind(-1) is WholeLogs


@pytest.mark.law
def test_what_windows_dropped_of_another_log_is_not_taken_for_this_ones(tmp_path):
    layout, log = Layout.at(tmp_path), random_log(SPEC, 23, rows=400, members=3, days=6)
    days = carried(layout, log, CONFIG)
    rng = np.random.default_rng(1)
    few = log.impressions.filter(pa.array(rng.random(len(log.impressions)) > 0.05))
    other = dataclasses.replace(log, impressions=few)
    carried(layout, other, CONFIG, skipped={0, 1, 2, 3, 4})
    recent = logs_of_a_day(layout, days[-1], CONFIG, days[-3], days[-2])
    assert isinstance(recent, RecentLogs)
    expected = shards(whole(recent), other, recent, tmp_path / "whole")
    assert shards(recent, other, recent, tmp_path / "recent") == expected


def test_the_members_of_both_have_as_many_rows(tmp_path):
    layout, log = Layout.at(tmp_path), random_log(SPEC, 24, rows=300, members=9, days=4)
    days = carried(layout, log, CONFIG)
    recent = logs_of_a_day(layout, days[-1], CONFIG, days[-2], days[-1])
    assert recent.members().equals(whole(recent).members())
    assert recent.members().num_rows > 3
    nobody = dataclasses.replace(recent, after_day=days[-1])
    assert nobody.members().num_rows == 0
    ids = column(recent.members(), "member_id")
    (held,) = (recent.impressions(ids[:1]),)
    assert set(column(held, "member_id").tolist()) == {ids[0]}
