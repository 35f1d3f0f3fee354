# SPDX-License-Identifier: Apache-2.0
"""Law 6: a day that is run twice, or resumed after a crash at any step, leaves the same store, the
same sequences and one registered model.

The steps run in this process, in the loop's order, through the same `run_step` as in the pipeline.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.config import GateConfig
from components.layout.files import write_json
from components.layout.paths import Layout
from components.loop.ledger import Ledger
from components.loop.steps import ORDER, run_step
from components.registry import versions
from components.registry.plan import plan
from tests.loop_builders import digests, online_rows, tiny_config, tiny_log, write_config

KEPT = ("impressions", "quarantine", "ingest", "features", "sequences", "runs", "registry/versions")
WITHOUT_SERVERS = tuple(step for step in ORDER if step != "parity")
"""Parity writes nothing that a later step reads; its own tests run it."""


def run_steps(layout: Layout, day: str, config: str, steps: tuple[str, ...]) -> None:
    """Runs steps of the loop as the pipeline does, promoting what was registered."""
    for step in steps:
        name, _, ranker = step.partition("-")
        arguments = {"ranker": ranker} if ranker else {}
        if name == "promote":
            arguments = {"version": versions.versions(layout)[-1]}
        run_step(name, str(layout.root), day, config, **arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, str, str, dict[str, str]]:
    """A root whose last day ran once, undisturbed, and the digests of what it left."""
    folder = tmp_path_factory.mktemp("idempotence")
    layout = tiny_log(folder / "root", days=4)
    config = write_config(folder / "loop.json", tiny_config())
    day = layout.raw_days()[-1]
    run_steps(layout, day, config, WITHOUT_SERVERS)
    return layout, day, config, digests(layout.root, *KEPT)


@pytest.mark.law
@pytest.mark.slow
def test_a_day_run_twice_is_the_same_day(
    finished: tuple[Layout, str, str, dict[str, str]],
) -> None:
    layout, day, config, before = finished
    stored = online_rows(layout)
    run_steps(layout, day, config, WITHOUT_SERVERS)
    assert digests(layout.root, *KEPT) == before
    assert online_rows(layout) == stored
    assert versions.versions(layout) == [versions.current(layout)]


@pytest.mark.law
@pytest.mark.slow
@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(killed_after=st.integers(0, len(WITHOUT_SERVERS) - 1))
def test_a_day_resumed_at_any_step_is_the_same_day(
    finished: tuple[Layout, str, str, dict[str, str]], tmp_path: Path, killed_after: int
) -> None:
    done, day, config, before = finished
    root = tmp_path / "again"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(done.root / "raw", root / "raw")
    layout = Layout.at(root)
    run_steps(layout, day, config, WITHOUT_SERVERS[: killed_after + 1])
    # What a killed writer leaves behind: a temporary file that was never renamed.
    (root / "impressions" / f"day={day}" / ".part.parquet.left").write_bytes(b"half")
    run_steps(layout, day, config, WITHOUT_SERVERS)
    after = digests(root, *KEPT)
    after.pop(f"impressions/day={day}/.part.parquet.left")
    assert after == before
    assert online_rows(layout) == online_rows(done)
    assert versions.versions(layout) == [versions.current(layout)]


@pytest.mark.law
@given(
    covered=st.integers(0, 6),
    day=st.integers(0, 6),
    touched=st.none() | st.integers(0, 6),
)
def test_every_stale_day_is_done_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, covered: int, day: int, touched: int | None
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    inputs = {f"2026-01-0{i + 1}": folder / str(i) for i in range(7)}
    for path in inputs.values():
        path.write_bytes(b"rows")
    days = list(inputs)
    Ledger(folder / "l.json", "key").cover(days[:covered], inputs, lambda _: None)
    if touched is not None:
        inputs[days[touched]].write_bytes(b"other rows")
    first = min(d for d in (covered, day, touched if touched is not None else 7) if d <= day)
    assert Ledger(folder / "l.json", "key").stale(inputs, days[day]) == days[first : day + 1]
    assert Ledger(folder / "l.json", "other").stale(inputs, days[day]) == days[: day + 1]


@pytest.mark.law
def test_days_after_one_that_was_built_anew_are_done_again(tmp_path: Path) -> None:
    inputs = {f"2026-01-0{i + 1}": tmp_path / str(i) for i in range(5)}
    for path in inputs.values():
        path.write_bytes(b"rows")
    days = list(inputs)
    Ledger(tmp_path / "l.json", "key").cover(days, inputs, lambda _: None)
    Ledger(tmp_path / "l.json", "key").cover(days[1:2], inputs, lambda _: None)
    assert Ledger(tmp_path / "l.json", "key").stale(inputs, days[4]) == days[4:], "the same input"
    inputs[days[1]].write_bytes(b"other rows")
    Ledger(tmp_path / "l.json", "key").cover(days[1:2], inputs, lambda _: None)
    assert Ledger(tmp_path / "l.json", "key").stale(inputs, days[4]) == days[2:]


def test_a_file_that_would_hold_the_same_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    write_json(path, {"read": 1})
    os.utime(path, ns=(1, 1))
    write_json(path, {"read": 1})
    assert path.stat().st_mtime_ns == 1
    write_json(path, {"read": 2})
    assert path.stat().st_mtime_ns > 1
    assert [p.name for p in tmp_path.iterdir()] == ["counts.json"]


@pytest.mark.law
@pytest.mark.slow
def test_after_a_refused_day_the_next_starts_from_production_and_misses_nothing(
    tmp_path: Path,
) -> None:
    layout = tiny_log(tmp_path / "root", days=5)
    config = tiny_config()
    opened = write_config(tmp_path / "open.json", config)
    closed = write_config(
        tmp_path / "closed.json", config.model_copy(update={"gate": GateConfig(min_auc=1.0)})
    )
    _, second, third, fourth, fifth = layout.raw_days()
    run_steps(layout, third, opened, WITHOUT_SERVERS)
    production = versions.current(layout)
    run_steps(layout, fourth, closed, WITHOUT_SERVERS[: WITHOUT_SERVERS.index("register")])
    with pytest.raises(ValueError, match="the gate refused"):
        run_steps(layout, fourth, closed, ("register", "promote"))
    assert versions.current(layout) == production

    run_steps(layout, fifth, opened, WITHOUT_SERVERS)
    planned = plan(layout, fifth, config)
    assert planned.production == production is not None
    assert planned.start == versions.version_folder(layout, production)
    assert planned.baseline_start == layout.model(third, "dcnv2")
    assert (planned.after_day, planned.through_day) == (second, fourth)
    trained = targets(layout, third) + targets(layout, fifth)
    served = impressions(layout, through=fourth)
    assert sorted(trained) == sorted(served), "each impression is trained on once"
    assert len(set(trained)) == len(trained)

    assert versions.rollback(layout) == production
    after = plan(layout, day_after(fifth), config)
    assert (after.production, after.after_day) == (production, second)


def day_after(day: str) -> str:
    """The day after one."""
    spec = tiny_config().spec
    return spec.day_name(spec.day_number(day) + 1)


def targets(layout: Layout, day: str) -> list[tuple[int, int, int]]:
    """Member, post and time of every impression with a loss in a day's training shards."""
    found = []
    for path in sorted(layout.sequences("train", day).glob("*.arrow")):
        for row in pa.ipc.open_file(path).read_all().to_pylist():
            for post, time, loss in zip(
                row["post_id"], row["event_time"], row["loss"], strict=True
            ):
                if loss:
                    found.append((row["member_id"], post, time))
    return found


def impressions(layout: Layout, through: str) -> list[tuple[int, int, int]]:
    """Member, post and time of every ingested impression that was served through a day."""
    spec = tiny_config().spec
    found = []
    for day in layout.impression_days():
        table = pq.read_table(layout.impressions_day(day))
        served = spec.day(table["event_time"].to_numpy()) <= spec.day_number(through)
        rows = table.filter(pa.array(served)).select(["member_id", "post_id", "event_time"])
        found += [tuple(row.values()) for row in rows.to_pylist()]
    return found
