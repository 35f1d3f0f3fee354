# SPDX-License-Identifier: Apache-2.0
"""What is counted: the time of a stage, however it ends, and refusals by their kind."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from serving import metrics
from serving.errors import TooLate, Unavailable


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def seconds(stage: str) -> tuple[float, float]:
    """How often a stage was seen, and how long in all."""
    names = ("feedsr_stage_seconds_count", "feedsr_stage_seconds_sum")
    count, total = (sample(name, stage=stage) for name in names)
    return count, total


def test_a_stage_is_observed_however_it_ends() -> None:
    count, total = seconds("of a test")
    with metrics.stage("of a test"):
        pass
    with pytest.raises(ZeroDivisionError), metrics.stage("of a test"):
        raise ZeroDivisionError
    after, longer = seconds("of a test")
    assert after == count + 2
    assert total < longer < total + 10


def test_a_refusal_is_counted_by_its_kind_and_goes_on() -> None:
    before = {kind: sample("feedsr_refused_total", reason=kind) for kind in ("TooLate", "KeyError")}
    unavailable = sample("feedsr_refused_total", reason="Unavailable")
    for error in (TooLate("late"), TooLate("late again"), Unavailable("busy"), KeyError("ours")):
        with pytest.raises(type(error)) as raised, metrics.refusals():
            raise error
        assert raised.value is error
    assert sample("feedsr_refused_total", reason="TooLate") == before["TooLate"] + 2
    assert sample("feedsr_refused_total", reason="Unavailable") == unavailable + 1
    assert sample("feedsr_refused_total", reason="KeyError") == before["KeyError"] == 0


def test_every_metric_is_ours_by_name() -> None:
    collectors = [value for name, value in vars(metrics).items() if name.isupper()]
    named = [family.name for c in collectors if hasattr(c, "collect") for family in c.collect()]
    assert len(named) == len(set(named)) == 12
    assert all(name.startswith("feedsr_") for name in named)
