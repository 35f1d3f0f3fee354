# SPDX-License-Identifier: Apache-2.0
"""The curve's stretches at every length of a run, and a throughput by the clock."""

from __future__ import annotations

import pytest

from components.training import curve as module
from components.training.curve import Curve, Throughput


def test_a_long_curve_is_means_of_stretches_and_ends_with_the_run() -> None:
    curve = Curve(1_502, ("click",))
    for step in range(1, 1_503):
        curve.add(step, [float(step), 2.0 * step], lr=0.1)
    assert [p["step"] for p in curve.points][:2] == [3, 6]
    assert curve.points[0] == {"step": 3, "loss": 2.0, "lr": 0.1, "tasks": {"click": 4.0}}
    assert curve.points[-1]["step"] == 1_502
    assert curve.points[-1]["loss"] == 1_501.5
    assert curve.pending == []


@pytest.mark.parametrize(
    ("steps", "points", "first"),
    [(0, 0, 0), (1, 1, 1), (500, 500, 1), (999, 999, 1), (1_000, 500, 2), (1_499, 750, 2)],
)
def test_a_curve_has_at_most_twice_five_hundred_points(steps: int, points: int, first: int) -> None:
    curve = Curve(steps, ())
    for step in range(1, steps + 1):
        curve.add(step, [1.0], lr=0.1)
    assert len(curve.points) == points
    if points:
        assert (curve.points[0]["step"], curve.points[-1]["step"]) == (first, steps)


def test_a_point_has_its_last_steps_rate_and_each_tasks_own_mean() -> None:
    curve = Curve(1_000, ("click", "like"))
    curve.add(1, [1.0, 2.0, 10.0], lr=0.5)
    assert (curve.points, curve.pending) == ([], [[1.0, 2.0, 10.0]])
    curve.add(2, [4.0, 3.0, 30.0], lr=0.25)
    wanted = {"step": 2, "loss": 2.5, "lr": 0.25, "tasks": {"click": 2.5, "like": 20.0}}
    assert (curve.points, curve.pending) == ([wanted], [])


def test_a_throughput_is_what_was_counted_over_the_time_since_it_was_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    throughput = Throughput()
    assert str(throughput) == "0 sequences/s, 0 impressions/s"
    throughput.count(8, 300)
    assert str(throughput) == "8000000000 sequences/s, 300000000000 impressions/s"  # no time yet
    throughput.count(12, 500)
    now[0] = 104.0
    assert str(throughput) == "5 sequences/s, 200 impressions/s"


def test_it_is_due_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    throughput = Throughput()
    said = []
    for seconds in (109.9, 110.0, 110.1, 119.9, 120.0, 129.0):
        now[0] = seconds
        said.append(throughput.due())
    assert said == [False, True, False, False, True, False]
