# SPDX-License-Identifier: Apache-2.0
"""Law 3 end to end, with real servers and a real store: a tampered value is found and named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.evaluation.differences import BOUNDS, Findings, Models, compare
from components.evaluation.parity import parity
from components.evaluation.replay import Offline
from components.evaluation.requests import boundary_of, logged_requests, probe_instances
from components.features.online import online_histories
from components.features.store import open_store
from components.registry.run import Run
from feature_repo.specs import SIMULATOR as SPEC
from serving.client import ask
from serving.history import decode_history, encode_history
from serving.launch import launch
from tests.serving_builders import SmallRun


@pytest.mark.law
def test_serving_and_offline_agree(small_run: SmallRun) -> None:
    result = parity(small_run.layout, small_run.day, small_run.config)
    assert result.probes == result.requests == result.scored == 6
    assert result.candidates == 6 * 20
    assert result.served_difference <= result.bound < 1e-3
    assert result.forward_difference <= result.bound
    assert Run(small_run.layout, small_run.day).parity == result


@pytest.mark.law
def test_serving_in_bfloat16_agrees_within_the_dtype(small_run: SmallRun) -> None:
    config = small_run.config.model_copy(update={"serving_dtype": "bfloat16"})
    result = parity(small_run.layout, small_run.day, config)
    assert 1e-5 < result.served_difference <= result.bound == BOUNDS["bfloat16"]


def probed(run: SmallRun) -> dict[str, Any]:
    """The first probe that parity will send."""
    return probe_instances(run.layout, run.day, run.config, 6, run.end_ms)[0]


@contextmanager
def tampered(run: SmallRun, view: str, keys: dict[str, int], old: bytes, new: bytes) -> Iterator:
    """The online value of a key changed behind Feast's back, and put back afterwards."""
    store = open_store(run.layout, run.config)
    field = "history" if view == "history" else "packed"

    def write(value: bytes) -> None:
        when = pd.Timestamp(run.end_ms, unit="ms", tz="UTC")
        row = {**keys, "event_timestamp": when, "created_timestamp": when, field: value}
        store.write_to_online_store(view, pd.DataFrame([row]))

    write(new)
    try:
        yield
    finally:
        write(old)


def test_a_tampered_counter_fails_the_run_and_is_named(small_run: SmallRun) -> None:
    probe, view = probed(small_run), SPEC.view("post_popularity")
    rows = pq.read_table(sorted(small_run.layout.feature_dir(view.name).glob("*.parquet")))
    latest = dict(zip(rows["post_id"].to_pylist(), rows["packed"].to_pylist(), strict=True))
    post_id = next(p for p in probe["candidates"] if p in latest)
    record = np.frombuffer(latest[post_id], view.dtype).copy()
    record["post_like_rate"] += np.float32(1e-6)
    keys, old = {"post_id": post_id}, latest[post_id]
    with (
        tampered(small_run, view.name, keys, old, record.tobytes()),
        pytest.raises(ValueError, match=f"feature post_like_rate of member .* and post {post_id}"),
    ):
        parity(small_run.layout, small_run.day, small_run.config)


def test_a_tampered_history_fails_the_run_and_is_named(small_run: SmallRun) -> None:
    member = probed(small_run)["member_id"]
    store = open_store(small_run.layout, small_run.config)
    old = online_histories(store, [member])[member]
    history = decode_history(old, SPEC)
    column = history.batch.schema.get_field_index("like")
    likes = history.batch.column(column).to_numpy(zero_copy_only=False).copy()
    likes[-1] = 1 - max(likes[-1], 0)
    changed = history.batch.set_column(
        column, SPEC.history_schema.field(column), array_of(likes, "like")
    )
    new = encode_history(changed, member_id=member, count=history.count, spec=SPEC)
    with (
        tampered(small_run, "history", {"member_id": member}, old, new),
        pytest.raises(ValueError, match=f"history of member {member}: feature like of post"),
    ):
        parity(small_run.layout, small_run.day, small_run.config)


def array_of(values: np.ndarray, name: str) -> Any:
    return pa.array(values, SPEC.history_schema.field(name).type)


def test_logged_requests_are_replayed_and_unfit_ones_are_counted(small_run: SmallRun) -> None:
    """Requests of the day after the run, as of the store's own time, and one about the past; one
    with codes that ingest would refuse, and one that names candidates twice.
    """
    layout, config, now = small_run.layout, small_run.config, small_run.end_ms
    next_day = SPEC.day_name(SPEC.day_number(small_run.day) + 1)
    changes: list[dict[str, Any]] = [{"time_ms": now + ms} for ms in (0, 7_200_000, -1)]
    changes.append({"time_ms": now, "request": {"surface": 99, "hour": 24}})
    changes.append({"time_ms": now, "candidates": [*small_run.posts[:3], *small_run.posts[2::-1]]})
    with launch(small_run.serving()) as pair:
        for change in changes:
            ask(pair.transformer.url, [{**probed(small_run), **change}])
    rows, skipped = logged_requests(layout, next_day, config)
    assert len(rows) >= 4
    assert not skipped
    again = Offline(layout, config).replay(rows, boundary_of(SPEC, rows[0].time_ms))
    models, findings = Models(layout, next_day), Findings()
    for logged, replayed in zip(rows, again, strict=True):
        compare(SPEC, logged, replayed, models, findings)
    assert findings.scored == len(rows)
    past, skipped = logged_requests(layout, small_run.day, config)
    assert past == []
    assert skipped["asked about the past"] >= 1


def test_a_store_that_was_not_materialized_is_one_sentence(small_run: SmallRun) -> None:
    tomorrow = SPEC.day_name(SPEC.day_number(small_run.day) + 1)
    sentence = re.escape(f"the log has no impressions of {tomorrow}")
    with pytest.raises(ValueError, match=sentence):
        parity(small_run.layout, tomorrow, small_run.config)
