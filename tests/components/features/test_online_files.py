# SPDX-License-Identifier: Apache-2.0
"""Which files are online is known by their bytes, and only of the store they were brought to."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from components.features import online_files
from components.features.online_files import OnlineFiles

STORE = "sqlite at /runs/a, 1234"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Files of three days, not in their order."""
    paths = {day: tmp_path / day for day in ("2026-01-03", "2026-01-01", "2026-01-02")}
    for day, path in paths.items():
        path.write_text(f"rows of {day}")
    return paths


def through(files: dict[str, Path], day: str) -> dict[str, Path]:
    return {d: p for d, p in files.items() if d <= day}


def short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def test_nothing_is_online_at_first(tmp_path: Path, files: dict[str, Path]) -> None:
    online = OnlineFiles(tmp_path / "o.json", STORE)
    assert online.last_day("affinity") is None
    assert not online.changed("affinity", files)
    assert not online.changed("affinity", {})
    assert not (tmp_path / "o.json").exists(), "asking writes nothing"


def test_what_was_noted_is_known_by_the_next_process(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    path = tmp_path / "ledger" / "o.json"
    OnlineFiles(path, STORE).note("affinity", through(files, "2026-01-02"))
    online = OnlineFiles(path, STORE)
    assert online.last_day("affinity") == "2026-01-02"
    assert online.last_day("history") is None
    assert [kept[2] for kept in online.views["affinity"].values()] == [
        short("rows of 2026-01-01"),
        short("rows of 2026-01-02"),
    ]
    assert not online.changed("affinity", files), "a newer day is new, not changed"
    online.note("history", through(files, "2026-01-01"))
    online.forget("affinity")
    after = OnlineFiles(path, STORE)
    assert after.last_day("affinity") is None
    assert after.last_day("history") == "2026-01-01"
    after.forget("affinity")


def test_another_store_has_nothing(tmp_path: Path, files: dict[str, Path]) -> None:
    OnlineFiles(tmp_path / "o.json", STORE).note("affinity", files)
    other = OnlineFiles(tmp_path / "o.json", STORE.replace("a", "b"))
    assert other.views == {}
    assert len(other.store) == 16
    assert OnlineFiles(tmp_path / "o.json", STORE).last_day("affinity") == "2026-01-03"


@pytest.mark.parametrize("day", ["2026-01-01", "2026-01-03"])
def test_other_bytes_of_any_day_are_a_change_and_another_time_is_none(
    tmp_path: Path, files: dict[str, Path], day: str
) -> None:
    online = OnlineFiles(tmp_path / "o.json", STORE)
    online.note("affinity", files)
    os.utime(files[day], ns=(7, 7))
    assert not online.changed("affinity", files)
    files[day].write_text(files[day].read_text().upper())
    assert online.changed("affinity", files)


@pytest.mark.parametrize("day", ["2026-01-02", "2026-01-03"])
def test_a_later_day_that_is_gone_and_a_day_that_came_late_are_changes(
    tmp_path: Path, files: dict[str, Path], day: str
) -> None:
    online = OnlineFiles(tmp_path / "o.json", STORE)
    online.note("affinity", files)
    assert online.changed("affinity", {d: p for d, p in files.items() if d != day})
    online.note("affinity", {d: p for d, p in files.items() if d != "2026-01-01"})
    assert online.changed("affinity", files)


@pytest.mark.law
@pytest.mark.parametrize("gone", [1, 2])
def test_the_first_days_may_go_and_what_stays_is_watched(
    tmp_path: Path, files: dict[str, Path], gone: int
) -> None:
    OnlineFiles(tmp_path / "o.json", STORE).note("affinity", files)
    stays = {day: files[day] for day in sorted(files)[gone:]}
    online = OnlineFiles(tmp_path / "o.json", STORE)
    assert not online.changed("affinity", stays)
    online.note("affinity", stays)
    assert list(json.loads(online.path.read_text())["online"]["affinity"]) == list(stays)
    again = OnlineFiles(tmp_path / "o.json", STORE)
    assert not again.changed("affinity", stays)
    assert again.last_day("affinity") == "2026-01-03"
    stays[min(stays)].write_text("rows that were made anew")
    assert again.changed("affinity", stays)


@pytest.mark.law
def test_the_first_of_those_that_stay_may_not_be_written_anew_meanwhile(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    online = OnlineFiles(tmp_path / "o.json", STORE)
    online.note("affinity", files)
    files.pop("2026-01-01")
    files["2026-01-02"].write_text("rows of two days")
    assert online.changed("affinity", files)


def test_a_file_that_did_not_move_is_not_read(
    tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Histories are gigabytes: time and length tell that nothing moved."""
    online = OnlineFiles(tmp_path / "o.json", STORE)
    online.note("affinity", files)
    read, digest = [], online_files.file_digest
    monkeypatch.setattr(online_files, "file_digest", lambda path: read.append(path) or digest(path))
    again = OnlineFiles(tmp_path / "o.json", STORE)
    assert not again.changed("affinity", files)
    again.note("affinity", files)
    assert read == []
    files["2026-01-02"].write_text("more rows")
    assert again.changed("affinity", files)
    assert read == [files["2026-01-02"]]


def test_a_new_day_is_read_alone(
    tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "o.json"
    OnlineFiles(path, STORE).note("affinity", through(files, "2026-01-02"))
    read, digest = [], online_files.file_digest
    monkeypatch.setattr(online_files, "file_digest", lambda path: read.append(path) or digest(path))
    online = OnlineFiles(path, STORE)
    assert not online.changed("affinity", files)
    online.note("affinity", files)
    assert read == [files["2026-01-03"]]
    assert list(online.views["affinity"]) == sorted(files)


def test_files_that_were_only_copied_are_read_once(
    tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    OnlineFiles(tmp_path / "o.json", STORE).note("affinity", files)
    for path in files.values():
        os.utime(path, ns=(9, 9))
    read, digest = [], online_files.file_digest
    monkeypatch.setattr(online_files, "file_digest", lambda path: read.append(path) or digest(path))
    online = OnlineFiles(tmp_path / "o.json", STORE)
    assert not online.changed("affinity", files)
    online.note("affinity", files)
    assert len(read) == len(files)


def test_what_was_kept_before_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "o.json"
    online = OnlineFiles(path, STORE)
    views = {"affinity": {"2026-01-01": {"stamp": [1, 2], "bytes": "ab"}}}
    chains = {"affinity": {"day": "2026-01-01", "stamps": "ab", "bytes": "cd"}}
    path.write_text(json.dumps({"store": online.store, "views": views, "online": chains}))
    assert OnlineFiles(path, STORE).last_day("affinity") is None


def test_no_files_are_no_day(tmp_path: Path, files: dict[str, Path]) -> None:
    online = OnlineFiles(tmp_path / "o.json", STORE)
    online.note("affinity", files)
    assert online.changed("affinity", {})
    online.note("affinity", {})
    assert OnlineFiles(tmp_path / "o.json", STORE).last_day("affinity") is None
