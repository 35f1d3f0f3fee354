# SPDX-License-Identifier: Apache-2.0
"""Law 6: a day that is run twice, or resumed after a crash at any step, leaves the same store, the
same sequences and one registered model.

The steps run in this process, in the loop's order, through the same `run_step` as in the pipeline.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components import registry
from components.layout import Layout
from components.ledger import Ledger
from components.steps import ORDER, run_step
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
            arguments = {"version": registry.versions(layout)[-1]}
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
    assert registry.versions(layout) == [registry.current(layout)]


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
    assert registry.versions(layout) == [registry.current(layout)]


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
