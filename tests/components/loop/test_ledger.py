# SPDX-License-Identifier: Apache-2.0
"""What a ledger remembers of the days, on disk too; which days are stale is a law of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from components.loop.ledger import Ledger

DAYS = [f"2026-01-0{day}" for day in range(1, 6)]


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """A file a day, given out of order."""
    paths = {day: tmp_path / day for day in reversed(DAYS)}
    for path in paths.values():
        path.write_bytes(b"rows")
    return paths


def ledger(tmp_path: Path, key: str = "spec") -> Ledger:
    return Ledger(tmp_path / "ledger" / "step.json", key)


def test_the_file_has_each_day_s_time_and_size(tmp_path: Path, inputs: dict[str, Path]) -> None:
    os.utime(inputs[DAYS[0]], ns=(5, 7))
    ledger(tmp_path).cover(DAYS[:1], inputs, lambda day: None)
    text = (tmp_path / "ledger" / "step.json").read_text()
    assert json.loads(text) == {"days": {DAYS[0]: [7, 4]}, "key": "spec"}
    assert text.index('"days"') < text.index('"key"')


def test_what_each_day_gave_comes_back_in_order(tmp_path: Path, inputs: dict[str, Path]) -> None:
    results = ledger(tmp_path).cover(DAYS[:3], inputs, str.upper)
    assert list(results.items()) == [(day, day.upper()) for day in DAYS[:3]]


def test_a_first_run_does_every_day_and_the_next_the_last_alone(
    tmp_path: Path, inputs: dict[str, Path]
) -> None:
    kept = ledger(tmp_path)
    assert kept.stale(inputs, DAYS[2]) == DAYS[:3]
    kept.cover(DAYS[:3], inputs, lambda day: None)
    assert ledger(tmp_path).stale(inputs, DAYS[2]) == DAYS[2:3]
    assert ledger(tmp_path).stale(inputs, DAYS[4]) == DAYS[3:]
    assert ledger(tmp_path, "another spec").stale(inputs, DAYS[2]) == DAYS[:3]
    assert ledger(tmp_path).stale({}, DAYS[2]) == []


@pytest.mark.parametrize("content", [b"other", b"rest"])
def test_a_day_that_was_written_anew_is_stale_with_all_after_it(
    tmp_path: Path, inputs: dict[str, Path], content: bytes
) -> None:
    """By its size, or by its time alone."""
    ledger(tmp_path).cover(DAYS, inputs, lambda day: None)
    inputs[DAYS[1]].write_bytes(content)
    os.utime(inputs[DAYS[1]], ns=(1, 1))
    assert ledger(tmp_path).stale(inputs, DAYS[3]) == DAYS[1:4]


def test_a_day_that_fails_is_not_covered_and_those_before_it_are(
    tmp_path: Path, inputs: dict[str, Path]
) -> None:
    def step(day: str) -> None:
        if day == DAYS[2]:
            raise ValueError("no space")

    with pytest.raises(ValueError, match="no space"):
        ledger(tmp_path).cover(DAYS, inputs, step)
    assert ledger(tmp_path).stale(inputs, DAYS[4]) == DAYS[2:]


def test_the_state_before_the_step_is_what_was_covered(
    tmp_path: Path, inputs: dict[str, Path]
) -> None:
    """An input that is written while the step reads it must be done again."""
    day = DAYS[0]
    ledger(tmp_path).cover([day], inputs, lambda day: inputs[day].write_bytes(b"more rows"))
    assert ledger(tmp_path).stale(inputs, DAYS[1]) == DAYS[:2]


def test_a_damaged_ledger_is_one_sentence_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "ledger" / "step.json"
    path.parent.mkdir()
    path.write_text('{"key": "spec", "days": {"2026-01-01": [1')
    with pytest.raises(ValueError, match=r"step\.json is damaged: .*; remove it: every day is"):
        ledger(tmp_path)
