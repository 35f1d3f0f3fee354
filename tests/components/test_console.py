# SPDX-License-Identifier: Apache-2.0
"""Progress reaches whoever looks: events for the loop, lines for a log, nothing where none is
wanted.
"""

from __future__ import annotations

import pytest

from components.console import EVENT, emit, parse_event, progress


def test_an_event_survives_the_way_through_another_process(
    capsys: pytest.CaptureFixture[str],
) -> None:
    emit("end", step="gate", seconds=1.5)
    line = "    " + capsys.readouterr().out.strip()
    assert parse_event(line) == {"event": "end", "step": "gate", "seconds": 1.5}


@pytest.mark.parametrize("line", ["loss 0.5", EVENT + '{"event": "e', EVENT + "[1]", EVENT + "{}"])
def test_any_other_line_is_no_event(line: str) -> None:
    assert parse_event(line) is None


@pytest.mark.parametrize(
    ("mode", "out", "err"),
    [("events", '"done": 2', ""), ("lines", "", "train: 2 of 2"), ("off", "", "")],
)
def test_each_mode_says_it_its_own_way(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    out: str,
    err: str,
) -> None:
    monkeypatch.setenv("FEEDSR_PROGRESS", mode)
    monkeypatch.setattr("components.console.EVENT_SECONDS", 0.0)
    monkeypatch.setattr("components.console.LINE_SECONDS", 0.0)
    with progress("train", 2) as advance:
        advance()
        advance()
    shown = capsys.readouterr()
    assert out in shown.out
    assert err in shown.err
    if mode == "off":
        assert shown == ("", "")


def test_work_of_nothing_is_shown_as_done(capsys: pytest.CaptureFixture[str]) -> None:
    for mode in ("lines", "events", "off", "bar"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FEEDSR_PROGRESS", mode)
            with progress("nothing", 0) as advance:
                advance(0)
    assert "Traceback" not in capsys.readouterr().err
