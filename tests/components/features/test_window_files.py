# SPDX-License-Identifier: Apache-2.0
"""Members' newest impressions, from the files of windows and of what those dropped."""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pyarrow as pa

from components.features import histories as module
from components.features.histories import histories
from components.features.window_files import WindowFiles, unbroken
from components.features.window_state import INDEX, logged_rows, window_rows_schema
from components.layout.paths import Layout
from components.log.columns import column
from components.log.impressions import history_order
from feature_repo.spec import window_start
from tests.log_builders import random_log, small_config, small_spec

SPEC = small_spec("kuairand")
CONFIG = small_config(SPEC, buckets=3)


def test_the_rows_of_members_reach_back_as_far_as_what_was_dropped(tmp_path, monkeypatch):
    """As the log says them, from where the window began before the first day that is asked for."""
    monkeypatch.setattr(module, "GROUP_ROWS", 1)
    monkeypatch.setattr(module, "DROPPED_ROWS", 3)
    layout, log = Layout.at(tmp_path), random_log(SPEC, 31, rows=400, members=7, days=6)
    days = log.write(layout)
    for day in days:
        histories(layout, day, CONFIG)
    files = WindowFiles(layout, days[-1], CONFIG)
    assert files.fit()
    whole = history_order(log.impressions)
    member = column(whole, "member_id")
    index = np.arange(len(whole)) - np.searchsorted(member, member)
    logged = logged_rows(whole, index, SPEC)
    wanted = np.array([2, 3, 6])
    counts = files.counts(wanted)
    assert counts.tolist() == [(member == m).sum() for m in wanted]
    for after in days:
        rows = files.rows(wanted, after)
        early = column(whole, "arrival_time") < SPEC.day_end(after)
        start = {
            m: window_start((early & (member == m)).sum(), SPEC.max_impressions, SPEC.block)
            for m in wanted
        }
        kept = [m in start and i >= start[m] for m, i in zip(member, index, strict=True)]
        # As text: an unknown time is no equal of itself.
        assert str(rows.to_pylist()) == str(logged.filter(pa.array(kept)).to_pylist())
    assert files.rows(wanted[:0], "").num_rows == 0
    assert files.counts(wanted[:0]).tolist() == []


def test_a_window_as_of_an_earlier_time_is_that_of_the_log_or_short(tmp_path):
    layout, log = Layout.at(tmp_path), random_log(SPEC, 31, rows=400, members=7, days=6)
    days = log.write(layout)
    for day in days:
        histories(layout, day, CONFIG)
    whole = history_order(log.impressions)
    member, arrival = (column(whole, name) for name in ("member_id", "arrival_time"))
    index = np.arange(len(whole)) - np.searchsorted(member, member)
    logged, outcomes = logged_rows(whole, index, SPEC), set()
    times = (0, *(SPEC.day_end(day) for day in days), int(np.median(arrival)))
    for dropped, time_ms in itertools.product((True, False), times):
        if not dropped:
            shutil.rmtree(layout.state("dropped"), ignore_errors=True)
        files = WindowFiles(layout, days[-1], CONFIG)
        rows, short = files.rows_before(np.unique(member), time_ms)
        for number in np.unique(member):
            mine = rows.filter(pa.array(column(rows, "member_id") == number))
            outcomes.add((bool(len(mine)), number in short))
            if number in short:
                assert not len(mine)
                continue
            known = (member == number) & (arrival < time_ms)
            start = window_start(known.sum(), SPEC.max_impressions, SPEC.block)
            first = column(mine, INDEX)[0] if len(mine) else 0
            assert first <= start
            wanted = pa.array(known & (index >= first))
            assert str(mine.to_pylist()) == str(logged.filter(wanted).to_pylist())
    assert outcomes == {(True, False), (False, True), (False, False)}
    rows, short = files.rows_before(np.array([10**12]), SPEC.day_end(days[-1]))
    assert (rows.num_rows, len(short)) == (0, 0), "somebody without impressions lacks none"


def test_rows_before_a_gap_are_left_out_and_each_is_there_once():
    pairs = [(1, 4), (2, 9), (1, 5), (2, 7), (2, 8), (1, 2), (2, 5), (1, 5), (3, 0)]
    schema = window_rows_schema(SPEC)
    columns = {
        name: pa.array([pair[name != "member_id"] for pair in pairs]).cast(schema.field(name).type)
        for name in ("member_id", INDEX)
    }
    rows = unbroken(pa.table(columns))
    assert list(zip(*(column(rows, name).tolist() for name in columns), strict=True)) == [
        *((1, 4), (1, 5)),
        *((2, 7), (2, 8), (2, 9)),
        (3, 0),
    ]
    assert unbroken(rows.slice(0, 0)).num_rows == 0
