# SPDX-License-Identifier: Apache-2.0
"""Served requests, written down as Arrow IPC files by a thread of its own.

A full queue drops and counts. The parity step replays them. This module never blocks the caller
and never fails a request; a file appears whole or not at all.

Shape suffixes: N candidates, K tasks.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo.spec import Spec
from serving import metrics
from serving.transformer.features import Fetched
from serving.transformer.feed_request import Ranked

SCHEMA = pa.schema(
    {
        "member_id": pa.int64(),
        "time_ms": pa.int64(),
        "logged_ms": pa.int64(),
        "request": pa.map_(pa.string(), pa.int32()),
        "as_of_ms": pa.map_(pa.string(), pa.int64()),
        "post_ids": pa.list_(pa.int64()),
        "history": pa.binary(),
        "candidates": pa.binary(),
        "probabilities": pa.list_(pa.float32()),
        "flags": pa.list_(pa.string()),
        "model_version": pa.string(),
        "spec_hash": pa.string(),
        "dtype": pa.string(),
    }
)
"""One row a request. `as_of_ms` says up to when each view was complete; `history` and `candidates`
are the bytes the predictor got (`serving.wire`), `probabilities` is `[N, K]` row by row and
`dtype` what the model computed them in.
"""


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """How requests are logged.

    Attributes:
        rate: the share of requests that is logged.
        queue: most requests waiting to be written; more are dropped.
        rows: requests in one file.
        seconds: a request waits no longer than this for its file.
        day_bytes: most bytes this process writes in one day of its clock (UTC); more are dropped.
    """

    rate: float = 1.0
    queue: int = 256
    rows: int = 64
    seconds: float = 5.0
    day_bytes: int = 4 * 2**30


class RequestLog:
    """Writes `folder/day=YYYY-MM-DD/<time>-<pid>-<n>.arrow`, by the local day of each request."""

    def __init__(self, folder: Path, spec: Spec, config: LogConfig | None = None) -> None:
        self.folder, self.spec, self.config = folder, spec, config or LogConfig()
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(self.config.queue)
        self._random, self._files = random.Random(), 0
        self._today, self._today_bytes = 0, 0
        self._thread = threading.Thread(target=self._write_all, name="request-log", daemon=True)
        self._thread.start()

    def add(self, ranked: Ranked, fetched: Fetched, candidates: bytes) -> None:
        """Queues a request, unless it is not sampled or the queue is full."""
        if self._random.random() >= self.config.rate:
            return
        request = ranked.request
        row = {
            "member_id": request.member_id,
            "time_ms": request.time_ms,
            "logged_ms": time.time_ns() // 1_000_000,
            "request": list(request.request.items()),
            "as_of_ms": list(fetched.as_of_ms.items()),
            "post_ids": request.post_ids,
            "history": fetched.history,
            "candidates": candidates,
            "probabilities": ranked.probabilities_NK.reshape(-1),
            "flags": ranked.flags,
            "model_version": ranked.model_version,
            "spec_hash": self.spec.hash,
            "dtype": ranked.dtype,
        }
        try:
            self._queue.put_nowait(row)
        except queue.Full:
            metrics.LOGGED.labels("dropped").inc()

    def close(self) -> None:
        """Writes what is queued and ends the thread."""
        self._queue.put(None)
        self._thread.join()

    def _write_all(self) -> None:
        rows: list[dict[str, Any]] = []
        due, open_ = time.monotonic() + self.config.seconds, True
        while open_:
            try:
                row = self._queue.get(timeout=max(due - time.monotonic(), 0.01))
                open_ = row is not None
                rows += [row] if row else []
            except queue.Empty:
                pass
            if not open_ or len(rows) >= self.config.rows or time.monotonic() >= due:
                self._write(rows)
                rows, due = [], time.monotonic() + self.config.seconds

    def _write(self, rows: list[dict[str, Any]]) -> None:
        days = defaultdict(list)
        for row in rows:
            days[int(self.spec.day(row["time_ms"]))].append(row)
        for day, batch in days.items():
            if self._full():
                metrics.LOGGED.labels("dropped").inc(len(batch))
                continue
            try:
                self._write_file(self.folder / f"day={self.spec.day_name(day)}", batch)
                metrics.LOGGED.labels("written").inc(len(batch))
            except Exception as error:
                # A row that cannot be written must not end the thread: the ones after it count.
                metrics.LOGGED.labels("failed").inc(len(batch))
                logging.getLogger(__name__).error("request log: %s", error)

    def _full(self) -> bool:
        """Whether today's bytes are written already."""
        today = int(time.time() // 86_400)
        if today != self._today:
            self._today, self._today_bytes = today, 0
        return self._today_bytes >= self.config.day_bytes

    def _write_file(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        self._files += 1
        name = f"{time.time_ns() // 1_000_000}-{os.getpid()}-{self._files}.arrow"
        temporary = folder / f".{name}"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
                writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
            self._today_bytes += temporary.stat().st_size
            temporary.replace(folder / name)
        finally:
            temporary.unlink(missing_ok=True)


HEAD = ["member_id", "time_ms", "logged_ms", "as_of_ms", "flags", "model_version", "spec_hash"]
"""The columns that say what a row is; the others are what makes it heavy."""


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The requests of one day's folder, oldest first; ValueError names a file it cannot read."""
    rows = [row for path in _files(folder) for row in _table(path).to_pylist()]
    return sorted(rows, key=lambda r: (r["logged_ms"], r["member_id"]))


def sample_log(
    folder: Path, count: int, unfit: Callable[[dict[str, Any]], str]
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """At most `count` fit requests of a day's folder, and how many are unfit by reason.

    They are evenly spread from the oldest to the newest. A day of a busy feed is larger than
    memory: all rows are judged by their `HEAD`, the sampled ones alone are read whole.

    Args:
        folder: one day's folder; an absent one has no rows.
        count: most rows returned.
        unfit: why a row (its `HEAD`) is not wanted, or "".

    Raises:
        ValueError: a file that cannot be read.
    """
    reasons: Counter[str] = Counter()
    fit: list[tuple[int, int, Path, int]] = []
    for path in _files(folder):
        for place, row in enumerate(_table(path, HEAD).to_pylist()):
            reason = unfit(row)
            if reason:
                reasons[reason] += 1
            else:
                fit.append((row["logged_ms"], row["member_id"], path, place))
    fit.sort()
    chosen = np.linspace(0, len(fit) - 1, min(len(fit), count)).astype(int)
    places = [fit[i][2:] for i in chosen]
    return [_table(path).slice(place, 1).to_pylist()[0] for path, place in places], reasons


def _files(folder: Path) -> list[Path]:
    """Whole files; a writer that was killed may have left a temporary one, whose name has a dot."""
    return sorted(path for path in folder.glob("*.arrow") if not path.name.startswith("."))


def _table(path: Path, names: Sequence[str] | None = None) -> pa.Table:
    """A file's rows, or some of their columns, mapped and not yet read."""
    fields = [SCHEMA.get_field_index(name) for name in names or SCHEMA.names]
    options = pa.ipc.IpcReadOptions(included_fields=fields)
    try:
        return pa.ipc.open_file(pa.memory_map(str(path)), options=options).read_all()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no request log: {error}; remove it") from error
