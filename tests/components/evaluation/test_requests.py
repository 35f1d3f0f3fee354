# SPDX-License-Identifier: Apache-2.0
"""Which requests the parity step makes again, and the probes that it sends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from components.config import load_config
from components.evaluation.requests import (
    STRANGER,
    LoggedRequest,
    boundary_of,
    logged_requests,
    probe_instances,
)
from components.layout.paths import Layout
from feature_repo.spec import DAY_MS
from feature_repo.specs import SIMULATOR as SPEC
from serving.transformer.request_log import SCHEMA
from tests.serving_builders import SmallRun

CONFIG = load_config("demo").model_copy(update={"parity_requests": 4})
DAY = "2026-01-09"
START = int(SPEC.day_start(SPEC.day_number(DAY)))


def row(number: int, **changes: Any) -> dict[str, Any]:
    """A row of the request log, of a store that is as of the day's start."""
    whole = {
        "member_id": number,
        "time_ms": START + 1_000 + number,
        "logged_ms": START + 2_000 + number,
        "request": [("surface", 2)],
        "as_of_ms": [("history", START), ("post_popularity", START)],
        "post_ids": [4, 5],
        "history": b"h",
        "candidates": b"c",
        "probabilities": [0.25, 0.5],
        "flags": [],
        "model_version": "v1",
        "spec_hash": SPEC.hash,
        "dtype": "float32",
    }
    return {**whole, **changes}


def write_log(layout: Layout, rows: list[dict[str, Any]]) -> None:
    folder = layout.requests_day(DAY)
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    with pa.ipc.new_file(str(folder / "1-1-1.arrow"), SCHEMA) as writer:
        writer.write_table(table)


def test_a_row_of_the_log_is_a_request(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    write_log(layout, [row(7)])
    (logged,), skipped = logged_requests(layout, DAY, CONFIG)
    assert logged == LoggedRequest(
        member_id=7,
        post_ids=[4, 5],
        time_ms=START + 1_007,
        request={"surface": 2},
        history=b"h",
        candidates=b"c",
        probabilities=[0.25, 0.5],
        model_version="v1",
        dtype="float32",
    )
    assert not skipped


def test_requests_that_cannot_be_made_again_are_counted_by_reason(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    late = [("history", START), ("post_popularity", START - DAY_MS)]
    rows = [
        row(1),
        row(2, spec_hash="other"),
        row(3, time_ms=START - 1),
        row(4, as_of_ms=late),
        row(5, as_of_ms=late),
        row(6, time_ms=START),
    ]
    write_log(layout, rows)
    logged, skipped = logged_requests(layout, DAY, CONFIG)
    assert [request.member_id for request in logged] == [1, 6]
    assert skipped == {
        "other spec": 1, "asked about the past": 1, "store was not up to date": 2
    }  # fmt: skip


def test_a_busy_day_is_thinned_evenly_from_the_first_to_the_last(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    write_log(layout, [row(number) for number in range(10)])
    logged, _ = logged_requests(layout, DAY, CONFIG)
    assert [request.member_id for request in logged] == [0, 3, 6, 9]


def test_a_day_without_a_log_has_no_requests(tmp_path: Path) -> None:
    logged, skipped = logged_requests(Layout.at(tmp_path), DAY, CONFIG)
    assert logged == []
    assert not skipped


@pytest.mark.parametrize("milliseconds", [0, 1, DAY_MS - 1])
def test_the_boundary_is_the_start_of_the_local_day(milliseconds: int) -> None:
    assert boundary_of(SPEC, START + milliseconds) == START
    assert boundary_of(SPEC, START - 1) == START - DAY_MS


def test_probes_are_of_the_day_s_members_and_the_last_is_a_stranger(small_run: SmallRun) -> None:
    layout, day, now = small_run.layout, small_run.day, small_run.end_ms
    probes = probe_instances(layout, day, small_run.config, 6, now)
    assert probes == probe_instances(layout, day, small_run.config, 6, now), "drawn by the day"
    assert len(probes) == 6
    known = {probe["member_id"] for probe in probes[:-1]}
    assert known <= set(small_run.members)
    assert len(known) == 5
    for probe in probes:
        assert len(set(probe["candidates"])) == 20
        assert probe["time_ms"] == now
    assert all(set(probe["request"]) == {"surface"} for probe in probes[:-1])
    stranger = probes[-1]
    assert stranger["member_id"] >= STRANGER
    assert "request" not in stranger
    assert [post for post in stranger["candidates"] if post >= STRANGER] == [
        stranger["candidates"][-1]
    ]


def test_a_single_probe_is_the_stranger(small_run: SmallRun) -> None:
    probes = probe_instances(small_run.layout, small_run.day, small_run.config, 1, small_run.end_ms)
    assert [probe["member_id"] >= STRANGER for probe in probes] == [True]


def test_a_day_without_impressions_has_nothing_to_probe_with(small_run: SmallRun) -> None:
    tomorrow = SPEC.day_name(SPEC.day_number(small_run.day) + 1)
    with pytest.raises(ValueError, match=f"the log has no impressions of {tomorrow} to probe with"):
        probe_instances(small_run.layout, tomorrow, small_run.config, 3, small_run.end_ms)
