# SPDX-License-Identifier: Apache-2.0
"""The request log: whole files, by day, bounded, and never in the caller's way."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from prometheus_client import REGISTRY

from feature_repo.spec import DAY_MS
from feature_repo.specs import SIMULATOR as SPEC
from serving.transformer.features import Fetched
from serving.transformer.feed_request import FeedRequest, Ranked
from serving.transformer.request_log import SCHEMA, LogConfig, RequestLog, read_log, sample_log
from serving.transformer.utility import weights_of
from tests.serving_builders import NOW_MS, candidates


def served(member: int, time_ms: int = NOW_MS) -> tuple[Ranked, Fetched]:
    features, context = candidates(SPEC, 2, member)
    asked = FeedRequest(
        member_id=member,
        post_ids=np.array([7, 8]),
        request={"surface": 3},
        time_ms=time_ms,
        weights_K=weights_of(SPEC, {}),
    )
    ranked = Ranked(
        request=asked,
        probabilities_NK=np.full((2, 6), 0.25, np.float32),
        scores=np.zeros(2),
        flags=["missing:history"],
        post_flags=[[], []],
        model_version="v",
        dtype="float32",
    )
    fetched = Fetched(
        history=b"h",
        features=features,
        context_NC=context,
        flags=ranked.flags,
        post_flags=[[], []],
        as_of_ms={"history": 5},
    )
    return ranked, fetched


def test_what_was_added_is_read_back_by_day(tmp_path: Path) -> None:
    log = RequestLog(tmp_path, SPEC, LogConfig(rows=3))
    for member in range(5):
        log.add(*served(member, NOW_MS + (member % 2) * DAY_MS), b"c")
    log.close()
    days = sorted(p.name for p in tmp_path.iterdir())
    assert days == [f"day={SPEC.day_name(20_000)}", f"day={SPEC.day_name(20_001)}"]
    first, second = (read_log(tmp_path / day) for day in days)
    assert [r["member_id"] for r in first] == [0, 2, 4]
    assert [r["member_id"] for r in second] == [1, 3]
    row = first[0]
    assert dict(row["request"]) == {"surface": 3}
    assert dict(row["as_of_ms"]) == {"history": 5}
    assert (row["history"], row["candidates"], row["post_ids"]) == (b"h", b"c", [7, 8])
    assert row["probabilities"] == [0.25] * 12
    assert not list(tmp_path.rglob(".*"))


def dropped() -> float:
    labels = {"result": "dropped"}
    return REGISTRY.get_sample_value("feedsr_logged_requests_total", labels) or 0.0


def test_a_full_queue_drops_counts_and_never_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer is held up until all were added: an `add` that waits for it would never end."""
    written: list[int] = []
    gate, request = threading.Event(), served(1)
    log = RequestLog(tmp_path, SPEC, LogConfig(queue=4, rows=1))

    def held(rows: list[Any]) -> None:
        assert gate.wait(60)
        written.append(len(rows))

    monkeypatch.setattr(log, "_write", held)
    before = dropped()
    for _ in range(200):
        log.add(*request, b"c")
    gate.set()
    log.close()
    lost = dropped() - before
    assert 195 <= lost <= 196
    assert lost + sum(written) == 200


def test_nothing_is_logged_at_rate_zero(tmp_path: Path) -> None:
    log = RequestLog(tmp_path, SPEC, LogConfig(rate=0.0))
    log.add(*served(1), b"c")
    log.close()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_loses_the_log_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    log = RequestLog(tmp_path / "file", SPEC, LogConfig(rows=1))
    log.add(*served(1), b"c")
    log.close()


def test_a_row_that_cannot_be_written_does_not_end_the_log(tmp_path: Path) -> None:
    log = RequestLog(tmp_path, SPEC, LogConfig(rows=1))
    log.add(*served(1, 2**53), b"c")
    for member in (2, 3):
        log.add(*served(member), b"c")
    log.close()
    assert [r["member_id"] for day in tmp_path.iterdir() for r in read_log(day)] == [2, 3]


def test_what_a_killed_writer_left_is_not_read(tmp_path: Path) -> None:
    log = RequestLog(tmp_path, SPEC)
    log.add(*served(1), b"c")
    log.close()
    [file] = tmp_path.rglob("*.arrow")
    file.with_name(f".{file.name}").write_bytes(file.read_bytes()[:100])
    assert len(read_log(file.parent)) == 1
    assert len(sample_log(file.parent, 9, lambda row: "")[0]) == 1


def test_a_day_is_bounded(tmp_path: Path) -> None:
    log = RequestLog(tmp_path, SPEC, LogConfig(rows=1, day_bytes=1))
    before = dropped()
    for member in range(3):
        log.add(*served(member), b"c")
    log.close()
    assert dropped() - before == 2
    assert len(list(tmp_path.rglob("*.arrow"))) == 1


def test_a_sample_is_spread_over_the_day_and_counts_the_rest(tmp_path: Path) -> None:
    log = RequestLog(tmp_path, SPEC, LogConfig(rows=3))
    for member in range(10):
        log.add(*served(member), b"c")
    log.close()
    [day] = tmp_path.iterdir()
    whole = read_log(day)
    rows, skipped = sample_log(day, 3, lambda row: "odd" if row["member_id"] % 2 else "")
    assert [r["member_id"] for r in rows] == [0, 4, 8]
    assert rows == [r for r in whole if r["member_id"] in (0, 4, 8)]
    assert skipped == {"odd": 5}
    assert sample_log(tmp_path / "day=1999-01-01", 3, lambda row: "") == ([], {})


def test_a_truncated_file_is_one_sentence(tmp_path: Path) -> None:
    log = RequestLog(tmp_path, SPEC)
    log.add(*served(1), b"c")
    log.close()
    [file] = tmp_path.rglob("*.arrow")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="is no request log"):
        read_log(file.parent)


def test_a_file_without_a_row_is_a_day_without_requests(tmp_path: Path) -> None:
    with pa.OSFile(str(tmp_path / "1.arrow"), "wb") as sink, pa.ipc.new_file(sink, SCHEMA):
        pass
    assert read_log(tmp_path) == []
    assert sample_log(tmp_path, 3, lambda row: "") == ([], {})
    log = RequestLog(tmp_path, SPEC)
    log.add(*served(1), b"c")
    log.close()
    [written] = tmp_path.rglob("day=*/*.arrow")
    written.rename(tmp_path / "2.arrow")
    assert [r["member_id"] for r in read_log(tmp_path)] == [1]
    assert [r["member_id"] for r in sample_log(tmp_path, 3, lambda row: "")[0]] == [1]
    assert sample_log(tmp_path, 0, lambda row: "")[0] == []
    assert sample_log(tmp_path, 3, lambda row: "all") == ([], {"all": 1})


def test_a_file_of_no_bytes_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "1.arrow").touch()
    for read in (read_log, lambda folder: sample_log(folder, 3, lambda row: "")):
        with pytest.raises(ValueError, match=r"1\.arrow is no request log: .*; remove it"):
            read(tmp_path)


def test_a_log_that_was_asked_nothing_writes_nothing(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "requests", SPEC, LogConfig(seconds=0.02))
    time.sleep(0.1)
    log._write([])
    log.close()
    assert list(tmp_path.rglob("*")) == []


def test_a_request_without_candidates_or_features_is_logged(tmp_path: Path) -> None:
    ranked, fetched = served(1)
    asked = dataclasses.replace(ranked.request, post_ids=np.zeros(0, np.int64), request={})
    none = np.zeros((0, 6), np.float32)
    ranked = dataclasses.replace(ranked, request=asked, probabilities_NK=none, flags=[])
    log = RequestLog(tmp_path, SPEC)
    log.add(ranked, dataclasses.replace(fetched, history=b"", as_of_ms={}), b"")
    log.close()
    [row] = read_log(next(tmp_path.iterdir()))
    assert (row["post_ids"], row["probabilities"], row["request"]) == ([], [], [])
    assert (row["history"], row["candidates"], row["flags"]) == (b"", b"", [])


def counted(result: str) -> float:
    labels = {"result": result}
    return REGISTRY.get_sample_value("feedsr_logged_requests_total", labels) or 0.0


def test_the_limits_are_these_where_none_are_said(tmp_path: Path) -> None:
    usual = LogConfig(rate=1.0, queue=256, rows=64, seconds=5.0, day_bytes=4 * 2**30)
    assert LogConfig() == usual
    log = RequestLog(tmp_path, SPEC)
    assert log.config == usual
    assert (log._thread.name, log._thread.daemon) == ("request-log", True)
    log.close()
    assert not log._thread.is_alive()


class Clock:
    """The time that the log reads, set by hand; its waiting is real."""

    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return round(self.now * 1000) * 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock(20_000 * 86_400 + 1.25)
    monkeypatch.setattr("serving.transformer.request_log.time", fake)
    return fake


def rows_of(log: RequestLog, *members: int) -> list[dict[str, Any]]:
    """What `add` would queue, with the log's own thread out of the way."""
    log.close()
    for member in members:
        log.add(*served(member), b"c")
    return [log._queue.get_nowait() for _ in members]  # type: ignore[misc]


def test_a_share_of_the_requests_is_logged(tmp_path: Path) -> None:
    log = RequestLog(tmp_path, SPEC, LogConfig(rate=0.25))
    log.close()
    drawn = iter([0.0, 0.25, 0.2499, 0.9])
    log._random.random = lambda: next(drawn)  # type: ignore[method-assign]
    for member in range(4):
        log.add(*served(member), b"c")
    assert [log._queue.get_nowait()["member_id"] for _ in range(2)] == [0, 2]  # type: ignore[index]
    assert log._queue.empty()


def test_a_row_says_everything_about_its_request(tmp_path: Path, clock: Clock) -> None:
    log = RequestLog(tmp_path, SPEC)
    [row] = rows_of(log, 7)
    before = counted("written")
    log._write([row])
    assert counted("written") == before + 1
    [file] = tmp_path.rglob("*.arrow")
    assert file.name == f"1728000001250-{os.getpid()}-1.arrow"
    [got] = read_log(file.parent)
    assert got == {
        "member_id": 7,
        "time_ms": NOW_MS,
        "logged_ms": 1_728_000_001_250,
        "request": [("surface", 3)],
        "as_of_ms": [("history", 5)],
        "post_ids": [7, 8],
        "history": b"h",
        "candidates": b"c",
        "probabilities": [0.25] * 12,
        "flags": ["missing:history"],
        "model_version": "v",
        "spec_hash": SPEC.hash,
        "dtype": "float32",
    }
    log._write([row])
    assert {f.name.rsplit("-", 1)[1] for f in file.parent.iterdir()} == {"1.arrow", "2.arrow"}


def test_a_day_has_its_bytes_and_the_next_one_its_own(tmp_path: Path, clock: Clock) -> None:
    probe = RequestLog(tmp_path / "probe", SPEC)
    probe._write(rows_of(probe, 1))
    [file] = (tmp_path / "probe").rglob("*.arrow")
    size = file.stat().st_size
    for limit, kept in ((size, 1), (size + 1, 2), (2 * size, 2), (2 * size + 1, 3)):
        folder = tmp_path / str(limit)
        log = RequestLog(folder, SPEC, LogConfig(day_bytes=limit))
        rows = rows_of(log, 1, 2, 3, 4)
        before = counted("dropped")
        clock.now = 20_000 * 86_400 + 1.0
        for row in rows:
            log._write([row])
        assert len(list(folder.rglob("*.arrow"))) == kept
        assert counted("dropped") == before + 4 - kept
        clock.now = 20_001 * 86_400 - 0.5
        log._write(rows[:1])
        assert len(list(folder.rglob("*.arrow"))) == kept
        clock.now = 20_001 * 86_400
        for row in rows:
            log._write([row])
        assert len(list(folder.rglob("*.arrow"))) == 2 * kept


def test_files_have_so_many_rows_and_wait_no_longer_than_said(tmp_path: Path) -> None:
    log = RequestLog(tmp_path, SPEC, LogConfig(rows=3, seconds=3600))
    for member in range(7):
        log.add(*served(member), b"c")
    wait_for(lambda: len(list(tmp_path.rglob("[0-9]*.arrow"))) == 2)
    log.close()
    sizes = [len(pa.ipc.open_file(str(f)).read_all()) for f in tmp_path.rglob("*.arrow")]
    assert sorted(sizes) == [1, 3, 3]
    quick = RequestLog(tmp_path / "quick", SPEC, LogConfig(seconds=0.05))
    for member in (1, 2):
        quick.add(*served(member), b"c")
        wait_for(lambda m=member: len(list((tmp_path / "quick").rglob("[0-9]*.arrow"))) == m)
    quick.close()


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_fails_is_counted_logged_and_leaves_no_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = RequestLog(tmp_path, SPEC)
    rows = rows_of(log, 1, 2)
    rows[0]["history"] = 5
    before = counted("failed")
    log._write(rows)
    assert counted("failed") == before + 2
    assert "request log: " in caplog.text
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    log._write(rows[1:])
    assert len(list(tmp_path.rglob("*.arrow"))) == 1


def test_a_sample_sees_heads_alone_and_comes_in_the_order_of_time(
    tmp_path: Path, clock: Clock
) -> None:
    log = RequestLog(tmp_path, SPEC)
    rows = rows_of(log, 5, 9, 3, 4)
    for place, (row, logged) in enumerate(zip(rows, (30, 10, 20, 10), strict=True)):
        clock.now += place
        row["logged_ms"] = logged
        log._write([row])
    [day] = tmp_path.iterdir()
    heads: list[set[str]] = []

    def unfit(row: dict[str, Any]) -> str:
        heads.append(set(row))
        return ""

    order = [4, 9, 3, 5]
    assert [r["member_id"] for r in read_log(day)] == order
    assert [r["member_id"] for r in sample_log(day, 9, unfit)[0]] == order
    assert [r["member_id"] for r in sample_log(day, 2, unfit)[0]] == [4, 5]
    assert [r["member_id"] for r in sample_log(day, 1, unfit)[0]] == [4]
    want = {"member_id", "time_ms", "logged_ms", "as_of_ms", "flags", "model_version", "spec_hash"}
    assert all(head == want for head in heads)
