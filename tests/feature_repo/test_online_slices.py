# SPDX-License-Identifier: Apache-2.0
"""Which files and rows an interval brings online, and in what slices."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from feast import FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key

from feature_repo import online_slices as module
from feature_repo.online_rows import entity_key
from feature_repo.online_slices import Interval, aware, files_in, slices, source_files
from feature_repo.specs import KUAIRAND, SIMULATOR
from feature_repo.views import feature_views

DAYS = ["2026-01-01", "2026-01-02", "2026-01-03"]


def view_named(name: str, spec=SIMULATOR) -> FeatureView:
    return next(v for v in feature_views(spec, Path("/runs/a")) if v.name == name)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def days_in(view: FeatureView, start: str, end: str) -> list[str]:
    files = [Path(f"/runs/a/day={day}.parquet") for day in DAYS]
    inside = files_in(view, files, Interval(utc(start), utc(end)))
    return [file.stem.removeprefix("day=") for file in inside]


def rows(days: dict[str, dict[int, bytes]], folder: Path) -> list[Path]:
    """A file for each day, with its values by post."""
    files = []
    for day, values in days.items():
        time = pa.array([utc(day)] * len(values), pa.timestamp("us", tz="UTC"))
        table = pa.table(
            {
                "post_id": pa.array(list(values), pa.int64()),
                "event_timestamp": time,
                "created_timestamp": time,
                "packed": pa.array(list(values.values()), pa.binary()),
            }
        )
        files.append(folder / f"day={day}.parquet")
        pq.write_table(table, files[-1])
    return files


def test_the_files_of_a_source_come_in_order(tmp_path):
    for name in ("day=2", "day=10", "bucket=1", "day=1"):
        (tmp_path / f"{name}.parquet").touch()
    names = [path.stem for path in source_files(f"{tmp_path}/day=*.parquet")]
    assert names == ["day=1", "day=10", "day=2"]


def test_an_interval_has_the_days_that_end_in_it_where_the_feed_is():
    view = view_named("post_content")
    assert days_in(view, "1970-01-01", "2026-01-04") == DAYS
    assert days_in(view, "2026-01-02", "2026-01-03") == [DAYS[1]]
    assert days_in(view, "2026-01-02T12:00:00", "2026-01-03T23:59:59") == [DAYS[1]]
    assert days_in(view, "2026-01-03", "2026-01-03T23:59:59") == []
    east = view_named("post_content", KUAIRAND)
    assert days_in(east, "2026-01-01T16:00:00", "2026-01-02T16:00:00") == [DAYS[1]]


def test_histories_are_of_no_day():
    files = [Path("bucket=00000.parquet")]
    interval = Interval(utc("2026-01-01"), utc("2026-01-02"))
    assert files_in(view_named("history"), files, interval) == files


def test_a_view_of_an_older_registry_says_what_to_run():
    view = view_named("affinity")
    del view.tags["utc_offset_hours"]
    with pytest.raises(ValueError, match="affinity does not say when its days end; run feast"):
        days_in(view, "2026-01-01", "2026-01-02")


@pytest.mark.parametrize("passes", [1, 3])
def test_of_several_days_the_newest_row_of_each_key_comes_once(tmp_path, monkeypatch, passes):
    folder = tmp_path / "post_id=7[*]'"
    folder.mkdir()
    monkeypatch.setattr(module, "SLICE_ROWS", 4)
    monkeypatch.setattr(module, "PASS_ROWS", 30 // passes)
    built = {
        DAYS[0]: dict.fromkeys(range(20), b"first"),
        DAYS[1]: dict.fromkeys(range(5, 10), b"second"),
        DAYS[2]: {5: b"third"},
    }
    files = rows(built, folder)
    batches = list(slices(view_named("post_content"), files, Interval(*[utc(DAYS[0])] * 2)))
    assert max(batch.num_rows for batch in batches) <= 4
    posts = [post for batch in batches for post in batch["post_id"].to_pylist()]
    values = [value for batch in batches for value in batch["packed"].to_pylist()]
    assert sorted(posts) == list(range(20))
    assert dict(zip(posts, values, strict=True)) == built[DAYS[0]] | built[DAYS[1]] | built[DAYS[2]]


def test_what_is_too_large_for_the_memory_is_put_aside_and_removed(tmp_path, monkeypatch):
    aside, work = tmp_path / "aside", tmp_path / "work"
    for folder in (aside, work):
        folder.mkdir()
    monkeypatch.setattr(module.tempfile, "tempdir", str(aside))
    monkeypatch.setattr(module, "MEMORY_LIMIT", "64MB")
    monkeypatch.chdir(work)
    days = {day: dict.fromkeys(range(400_000), day.encode() * 8) for day in DAYS}
    files, count = rows(days, tmp_path), 0
    # As Feast writes a key, and a store that sorts by keys has them.
    wanted = sorted(range(400_000), key=lambda post: post.to_bytes(8, "little"))
    for batch in slices(view_named("post_content"), files, Interval(*[utc(DAYS[0])] * 2)):
        assert pc.all(pc.equal(batch["packed"], DAYS[-1].encode() * 8)).as_py()
        assert batch["post_id"].to_pylist() == wanted[count : count + batch.num_rows]
        count += batch.num_rows
    assert count == 400_000
    assert not list(aside.iterdir())
    assert not list(work.iterdir())


def test_keys_come_in_the_order_in_which_feast_writes_them(tmp_path):
    view = view_named("affinity")
    names = [column.name for column in view.entity_columns]
    numbers = np.random.default_rng(0)
    keys = [
        [0, 1],
        [1, 0],
        [256, 255],
        [255, 256],
        *numbers.integers(2**62, size=(500, 2)).tolist(),
    ]
    table = pa.table(dict(zip(names, np.array(keys).T, strict=True)))
    times = pa.array([utc(DAYS[0])] * len(keys), pa.timestamp("us", tz="UTC"))
    path = tmp_path / f"day={DAYS[0]}.parquet"
    pq.write_table(table.append_column("event_timestamp", times), path)
    batches = slices(view, [path], Interval(*[utc(DAYS[0])] * 2))
    written = [
        serialize_entity_key(entity_key(names, list(row)), entity_key_serialization_version=3)
        for batch in batches
        for row in zip(*(batch[name].to_pylist() for name in names), strict=True)
    ]
    assert len(written) == len(keys)
    assert written == sorted(written)


def test_a_history_comes_where_it_became_true_in_the_interval(tmp_path):
    start, end = utc(DAYS[0]), utc(DAYS[1])
    times = [start, start + timedelta(microseconds=1), end, end + timedelta(microseconds=1)]
    table = pa.table(
        {
            "member_id": pa.array(range(4), pa.int64()),
            "event_timestamp": pa.array(times, pa.timestamp("us", tz="UTC")),
        }
    )
    path = tmp_path / "bucket=00000.parquet"
    pq.write_table(table, path, row_group_size=3)
    (batch,) = slices(view_named("history"), [path], Interval(start, end))
    assert batch["member_id"].to_pylist() == [1, 2]


def test_no_files_are_no_slices():
    interval = Interval(utc(DAYS[0]), utc(DAYS[1]))
    assert list(slices(view_named("affinity"), [], interval)) == []


def test_a_time_without_a_zone_is_utc():
    assert aware(datetime(2026, 1, 1)) == utc("2026-01-01")
    east = utc("2026-01-01").astimezone(module.timezone(timedelta(hours=8)))
    assert aware(east).tzinfo is UTC
