# SPDX-License-Identifier: Apache-2.0
"""What a person sees while something runs: steps report, and need not know who is looking.

A step calls `progress(label, total)` and advances it. On a terminal that is a bar; inside the daily
loop's subprocesses (`FEEDSR_PROGRESS=events`) it is an event line that the loop turns into its own
bar; in a log file or a cluster it is a plain line now and then. This module knows nothing of steps,
files or rankers.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Literal, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

Entered = TypeVar("Entered")
Mode = Literal["bar", "events", "lines", "off"]
MODES = ("bar", "events", "lines", "off")
EVENT = "@feedsr "
"""What an event line starts with; the rest of the line is JSON."""

LINE_SECONDS = 10.0
EVENT_SECONDS = 0.2


def console() -> Console:
    """The console for people: standard error, so that standard output stays a program's output."""
    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def progress_mode() -> Mode:
    """How progress is shown: `FEEDSR_PROGRESS`, else a bar on a terminal and lines elsewhere."""
    asked = os.environ.get("FEEDSR_PROGRESS", "")
    for mode in MODES:
        if asked == mode:
            return mode  # type: ignore[return-value]
    return "bar" if sys.stderr.isatty() else "lines"


def emit(kind: str, **fields: Any) -> None:
    """Prints one event line, flushed, for the loop that reads this process's output."""
    print(EVENT + json.dumps({"event": kind, **fields}), flush=True)


def parse_event(line: str) -> dict[str, Any] | None:
    """The event of an output line, or None if it is an ordinary line (or one cut short)."""
    _, mark, body = line.partition(EVENT)
    if not mark:
        return None
    try:
        event = json.loads(body)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def bar_columns() -> tuple[Any, ...]:
    """The columns of every bar of the project."""
    return (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """Shows how far a long piece of work is.

    Args:
        label: what is being done, in two or three words.
        total: how many units there are; None where that is not known.

    Yields:
        `advance(count=1)`: call it after each unit; cheap enough for tight loops (output is
        throttled).
    """
    mode = progress_mode()
    if mode == "bar":
        with _bars() as bars:
            task = bars.add_task(label, total=total)
            try:
                yield lambda count=1: bars.advance(task, count)
            finally:
                bars.remove_task(task)
        return
    yield _throttled(label, total, mode)


@contextmanager
def waiting(label: str) -> Iterator[None]:
    """Shows that the block waits for something whose end cannot be foretold.

    On a terminal that is a spinner, for the loop a bar without an end, elsewhere one line.
    """
    mode = progress_mode()
    if mode == "bar":
        with _spinner(label):
            yield
        return
    if mode == "events":
        emit("progress", label=label, done=0, total=None)
    elif mode == "lines":
        print(label, file=sys.stderr, flush=True)
    yield


@contextmanager
def awaited(label: str, block: AbstractContextManager[Entered]) -> Iterator[Entered]:
    """Enters a block whose beginning is waited for: `waiting` until it has begun."""
    with ExitStack() as stack:
        with waiting(label):
            entered = stack.enter_context(block)
        yield entered


@contextmanager
def _spinner(label: str) -> Iterator[None]:
    """A line that turns, or a bar without an end among those that are shown already."""
    if not _shown:
        with console().status(Text(label)):
            yield
        return
    with progress(label):
        yield


_shown: list[Progress] = []
"""The display that is on the terminal, if one is."""


@contextmanager
def _bars() -> Iterator[Progress]:
    """The display that is shown already, else a new one: two would draw over each other."""
    if _shown:
        yield _shown[0]
        return
    with Progress(*bar_columns(), console=console(), transient=True) as bars:
        _shown.append(bars)
        try:
            yield bars
        finally:
            _shown.clear()


def _throttled(label: str, total: int | None, mode: Mode) -> Callable[..., None]:
    """An `advance` that writes an event or a line when enough time has passed since the last."""
    done = 0
    last = time.monotonic()
    pause = EVENT_SECONDS if mode == "events" else LINE_SECONDS

    def advance(count: int = 1) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if mode == "off" or now - last < pause:
            return
        last = now
        if mode == "events":
            emit("progress", label=label, done=done, total=total)
        else:
            whole = f" of {total}" if total else ""
            print(f"{label}: {done}{whole}", file=sys.stderr, flush=True)

    return advance
