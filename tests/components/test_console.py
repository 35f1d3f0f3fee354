# SPDX-License-Identifier: Apache-2.0
"""Progress reaches whoever looks: events for the loop, lines for a log, nothing if unwanted."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from collections.abc import Iterator

import pytest

from components.console import EVENT, awaited, emit, parse_event, progress, waiting


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


@pytest.mark.parametrize(
    ("mode", "out", "err"),
    [
        (
            "events",
            '@feedsr {"event": "progress", "label": "servers", "done": 0, "total": null}\n',
            "",
        ),
        ("lines", "", "servers\n"),
        ("off", "", ""),
        ("bar", "", ""),
    ],
)
def test_a_wait_is_told_once(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    out: str,
    err: str,
) -> None:
    monkeypatch.setenv("FEEDSR_PROGRESS", mode)
    with waiting("servers"):
        pass
    assert capsys.readouterr() == (out, err)


def test_what_is_awaited_begins_in_the_wait_and_ends_with_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []

    @contextlib.contextmanager
    def noted(name: str) -> Iterator[str]:
        told.append(f"{name} begins")
        try:
            yield name
        finally:
            told.append(f"{name} ends")

    monkeypatch.setattr("components.console.waiting", noted)
    with contextlib.suppress(KeyError), awaited("wait", noted("server")) as name:
        told.append(f"block of {name}")
        raise KeyError
    assert told == ["wait begins", "server begins", "wait ends", "block of server", "server ends"]


SPINNING = """
import time
from components.console import progress, waiting
with waiting("alone [red]"):
    time.sleep(0.3)
with progress("outer", 3), waiting("inner"):
    time.sleep(0.3)
print("over")
"""


def test_a_terminal_sees_a_spinner_and_no_markup_is_read() -> None:
    shown = on_a_terminal(SPINNING)
    assert "alone [red]" in shown
    assert "outer" in shown
    assert "inner" in shown
    assert shown.count("alone") > 1, "it turns"
    assert "alone" not in shown[shown.index("outer") :], "it goes when the wait is over"
    assert "over" in shown


def on_a_terminal(code: str) -> str:
    """What a program shows on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "FEEDSR_PROGRESS"}
    environment |= {"TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b"".join(iter(lambda: _read(ours), b""))
        assert process.wait(60) == 0
    os.close(ours)
    return shown.decode()


def _read(terminal: int) -> bytes:
    """What is there to read; nothing once the other side is closed."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
