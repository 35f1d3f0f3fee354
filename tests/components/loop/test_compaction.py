# SPDX-License-Identifier: Apache-2.0
"""One file in the place of a view's old ones: at every later time each key has the same row."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.layout.files import write_parquet
from components.loop import compaction
from components.loop.compaction import compact

SCHEMA = pa.schema(
    {
        "member_id": pa.int64(),
        "actor_id": pa.int64(),
        "event_timestamp": pa.timestamp("us", tz="UTC"),
        "created_timestamp": pa.timestamp("us", tz="UTC"),
        "packed": pa.binary(),
    }
)
KEYS = st.tuples(st.integers(-1, 3), st.integers(0, 2))
DAYS = st.lists(st.dictionaries(KEYS, st.tuples(st.booleans(), st.binary(max_size=3))), min_size=1)


def write(folder: Path, days: list[dict]) -> list[Path]:
    """A file a day of the keys that changed; a key's first row may hold from long before."""
    files, seen = [], set()
    for number, changed in enumerate(days, 10):
        columns: list[list] = [[], [], [], [], []]
        for key, (early, packed) in changed.items():
            time = number * 100 - 50 * number * (early and key not in seen)
            row = (*key, time, time, packed)
            for column, value in zip(columns, row, strict=True):
                column.append(value)
            seen.add(key)
        arrays = [pa.array(c, t) for c, t in zip(columns, SCHEMA.types, strict=True)]
        files.append(folder / f"day=2026-01-{number}.parquet")
        write_parquet(files[-1], pa.Table.from_arrays(arrays, schema=SCHEMA))
    return files


def newest(files: list[Path], time: int) -> dict:
    """Each key's row at a time, as a point-in-time join finds it."""
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    known: dict = {}
    for row in sorted(rows, key=lambda row: row["event_timestamp"]):
        if row["event_timestamp"].timestamp() * 1_000_000 <= time:
            known[row["member_id"], row["actor_id"]] = row
    return known


@pytest.mark.law
@settings(max_examples=40, deadline=None)
@given(days=DAYS, place=st.integers(0, 99), gone=st.sets(st.integers(0, 9)), rows=st.integers(1, 9))
def test_at_every_later_time_each_key_has_the_same_row(
    tmp_path_factory: pytest.TempPathFactory, days: list, place: int, gone: set[int], rows: int
) -> None:
    """However many of the old files are left, and in however many passes it is made."""
    files = write(tmp_path_factory.mktemp("days"), days)
    end = place % len(files) + 1
    times = [100 * (number + 10) for number in range(end - 1, len(files))]
    before = [newest(files, time) for time in times]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compaction, "PASS_ROWS", rows)
        compact(files[:end])
        left = [file for place, file in enumerate(files[: end - 1]) if place not in gone]
        remaining = [*left, *files[end - 1 :]]
        assert [newest(remaining, time) for time in times] == before
        patched.setattr(compaction, "PASS_ROWS", 1_000)
        compact(remaining[: len(left) + 1])
    assert [newest(files[end - 1 :], time) for time in times] == before
    table = pq.read_table(files[end - 1])
    assert table.schema == SCHEMA
    keys = [tuple(row.values()) for row in table.select(["member_id", "actor_id"]).to_pylist()]
    assert keys == sorted(set(keys))


def test_a_file_that_has_all_is_not_written_again(tmp_path: Path) -> None:
    files = write(tmp_path, [{(1, 2): (False, b"a")}, {(2, 0): (True, b"b")}])
    compact(files)
    written = files[-1].stat().st_mtime_ns
    compact(files)
    files[0].unlink()
    compact(files[1:])
    assert files[-1].stat().st_mtime_ns == written
