# SPDX-License-Identifier: Apache-2.0
"""Your own Parquet becomes raw days with every row in it, whatever the rows hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.config import PROFILES
from components.layout.paths import Layout
from components.log.ingest import ingest
from components.log.sources import SimulatorConfig, detect_source, import_parquet, simulate
from components.log.sources import parquet as module
from components.log.sources.parquet import TIMES
from feature_repo.specs import KUAIRAND, SIMULATOR
from feature_repo.values import SANE_MS
from tests.raw_builders import (
    digest,
    make_impressions,
    make_members,
    make_posts,
    set_value,
    stack,
)

DAYS = ("2026-02-03", "2026-02-04", "2026-02-05")


def write_own(folder: Path, **changed: pa.Table) -> Path:
    """A folder as a user brings it: two files of impressions over three days."""
    folder.mkdir(exist_ok=True)
    days = [make_impressions(SIMULATOR, day, 30, seed) for seed, day in enumerate(DAYS)]
    tables = {
        "impressions-a": stack([days[1].slice(0, 10), days[0]]),
        "impressions-b": stack([days[2], days[1].slice(10)]),
        "posts": make_posts(SIMULATOR, 30),
        "members": make_members(SIMULATOR, 7),
    }
    for name, table in {**tables, **changed}.items():
        pq.write_table(table, folder / f"{name}.parquet")
    return folder


def test_every_row_lands_on_its_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_ROWS", 7)
    layout = Layout.at(tmp_path / "run")
    folder = write_own(tmp_path / "own")
    source = detect_source(folder)
    assert (source.name, source.spec_name) == ("parquet", None)
    counts = source.load(folder, layout, SIMULATOR)
    assert (counts.impressions, counts.posts, counts.members) == (90, 30, 7)
    assert counts.days == DAYS
    assert counts.notes == {"ignored_columns": 0}
    for seed, day in enumerate(DAYS):
        got = pq.read_table(layout.raw_day(day)).sort_by("post_id")
        assert got.to_pylist() == make_impressions(SIMULATOR, day, 30, seed).to_pylist()
        assert ingest(layout, day, PROFILES["demo"]).kept == 30


def test_a_long_log_is_split_some_days_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPEN_DAYS", 2)
    layout = Layout.at(tmp_path / "run")
    folder = write_own(tmp_path / "own")
    assert import_parquet(folder, layout, SIMULATOR).impressions == 90
    for seed, day in enumerate(DAYS):
        got = pq.read_table(layout.raw_day(day)).sort_by("post_id")
        assert got.to_pylist() == make_impressions(SIMULATOR, day, 30, seed).to_pylist()


@pytest.mark.parametrize("name", ["impressions-b", "members"])
def test_a_file_that_breaks_on_the_way_replaces_nothing(tmp_path: Path, name: str) -> None:
    layout = Layout.at(tmp_path / "run")
    folder = write_own(tmp_path / "own")
    import_parquet(folder, layout, SIMULATOR)
    before = digest(layout.root)
    path = folder / f"{name}.parquet"
    group = pq.ParquetFile(path).metadata.row_group(0)
    last = group.column(group.num_columns - 1)
    data = bytearray(path.read_bytes())
    start = last.dictionary_page_offset or last.data_page_offset
    data[start : start + last.total_compressed_size] = b"\xff" * last.total_compressed_size
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=rf"{name}\.parquet cannot be read"):
        import_parquet(folder, layout, SIMULATOR)
    assert digest(layout.root) == before
    assert sorted(p.name for p in layout.root.iterdir()) == [".lock", "raw"]


def test_a_simulated_log_comes_back_the_same(tmp_path: Path) -> None:
    """What one run's source wrote is a valid own log, and ingests to the same bytes."""
    first, second = Layout.at(tmp_path / "first"), Layout.at(tmp_path / "second")
    config = SimulatorConfig(days=3, members=60, actors=20, posts_per_day=40, impressions=1500)
    simulate(first, config)
    own = tmp_path / "own"
    own.mkdir()
    for day in first.raw_days():
        (own / f"impressions-{day}.parquet").write_bytes(first.raw_day(day).read_bytes())
    for path in (first.raw_posts, first.raw_members):
        (own / path.name).write_bytes(path.read_bytes())
    import_parquet(own, second, SIMULATOR)
    for layout in (first, second):
        for day in layout.raw_days():
            ingest(layout, day, PROFILES["demo"])
    for part in ("impressions", "quarantine", "ingest"):
        assert digest(first.root / part) == digest(second.root / part)
    assert first.posts.read_bytes() == second.posts.read_bytes()


@pytest.mark.parametrize("time", [None, -5, 0, 2**62])
def test_a_row_without_a_sane_arrival_ends_in_quarantine(tmp_path: Path, time: Any) -> None:
    layout = Layout.at(tmp_path / "run")
    bad = set_value(make_impressions(SIMULATOR, DAYS[1], 10), "arrival_time", 4, time)
    folder = write_own(tmp_path / "own", **{"impressions-a": bad})
    counts = import_parquet(folder, layout, SIMULATOR)
    results = [ingest(layout, day, PROFILES["demo"]) for day in counts.days]
    assert sum(r.read for r in results) == counts.impressions
    refused = [reason for r in results for reason in r.quarantined]
    expected = "arrival_time is null" if time is None else "arrival_time is out of range"
    assert expected in refused or "event_time is after arrival_time" in refused
    assert sum(sum(r.quarantined.values()) for r in results) >= 1


def test_columns_of_your_own_are_left_behind_and_counted(tmp_path: Path) -> None:
    posts = make_posts(SIMULATOR, 30).append_column("title", pa.array(["x"] * 30))
    layout = Layout.at(tmp_path / "run")
    counts = import_parquet(write_own(tmp_path / "own", posts=posts), layout, SIMULATOR)
    assert counts.notes == {"ignored_columns": 1}
    assert pq.read_schema(layout.raw_posts).names == SIMULATOR.post_schema.names


def test_mistakes_end_in_one_sentence_and_keep_the_old_log(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path / "run")
    folder = write_own(tmp_path / "own")
    import_parquet(folder, layout, SIMULATOR)
    before = digest(layout.root)
    with pytest.raises(ValueError, match="has no column 'tab'; want int32"):
        import_parquet(folder, layout, KUAIRAND)
    seconds = make_impressions(SIMULATOR, DAYS[0], 4).drop_columns("position")
    write_own(folder, **{"impressions-b": seconds})
    with pytest.raises(ValueError, match=r"impressions-b\.parquet has no column 'position'"):
        import_parquet(folder, layout, SIMULATOR)
    empty = SIMULATOR.impression_schema.empty_table()
    write_own(folder, **{"impressions-a": empty, "impressions-b": empty})
    with pytest.raises(ValueError, match="no impression has an arrival_time"):
        import_parquet(folder, layout, SIMULATOR)
    write_own(folder)
    data = bytearray((folder / "impressions-b.parquet").read_bytes())
    data[4:1500] = b"\xff" * 1496
    (folder / "impressions-b.parquet").write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"impressions-b\.parquet cannot be read"):
        import_parquet(folder, layout, SIMULATOR)
    (folder / "members.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"members\.parquet is not a Parquet file"):
        import_parquet(folder, layout, SIMULATOR)
    for path in folder.glob("impressions*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"has no impressions\*\.parquet"):
        import_parquet(folder, layout, SIMULATOR)
    assert digest(layout.root) == before


SECONDS = {"seconds": (1000, 1), "microseconds": (1, 1000), "nanoseconds": (1, 10**6)}
"""What milliseconds are divided by, and then multiplied by."""


def rewritten(table: pa.Table, column: str, unit: str, rows: slice = slice(None)) -> pa.Table:
    """The table with some times of a column in another unit."""
    values = table[column].to_pylist()
    by, times = SECONDS[unit]
    chosen = range(len(values))[rows]
    for row in chosen:
        if values[row] != -1:
            values[row] = values[row] // by * times
    place = table.schema.get_field_index(column)
    return table.set_column(place, table.schema.field(column), pa.array(values, pa.int64()))


def impressions(unit: str, *columns: str, rows: slice = slice(None)) -> dict[str, pa.Table]:
    days = [make_impressions(SIMULATOR, day, 30, seed) for seed, day in enumerate(DAYS)]
    tables = {"impressions-a": stack(days[:2]), "impressions-b": days[2]}
    for name, table in tables.items():
        for column in columns:
            table = rewritten(table, column, unit, rows)
        tables[name] = table
    return tables


@pytest.mark.parametrize("columns", [("event_time",), ("arrival_time",), TIMES], ids="-".join)
@pytest.mark.parametrize("unit", SECONDS)
def test_impressions_in_another_unit_are_one_sentence(
    tmp_path: Path, unit: str, columns: tuple[str, ...]
) -> None:
    layout, folder = Layout.at(tmp_path / "run"), write_own(tmp_path / "own")
    import_parquet(folder, layout, SIMULATOR)
    before = digest(layout.root)
    write_own(folder, **impressions(unit, *columns))
    message = rf"own: {columns[0]} is \d+ to \d+ in 90 rows: .* as {unit} .*2026-02-03 to 2026-02-0"
    with pytest.raises(ValueError, match=message) as error:
        import_parquet(folder, layout, SIMULATOR)
    assert "\n" not in str(error.value)
    assert digest(layout.root) == before


@pytest.mark.parametrize("unit", SECONDS)
def test_posts_in_another_unit_are_one_sentence(tmp_path: Path, unit: str) -> None:
    posts = set_value(make_posts(SIMULATOR, 30), "created_ms", 3, -1)
    folder = write_own(tmp_path / "own", posts=rewritten(posts, "created_ms", unit))
    message = rf"posts\.parquet: created_ms is \d+ to \d+ in 29 rows: .* as {unit} .*2022-01-01"
    with pytest.raises(ValueError, match=message):
        import_parquet(folder, Layout.at(tmp_path / "run"), SIMULATOR)


@pytest.mark.parametrize("column", TIMES)
@pytest.mark.parametrize("unit", SECONDS)
def test_some_rows_in_another_unit_end_in_quarantine_with_it(
    tmp_path: Path, unit: str, column: str
) -> None:
    """Up to half of them, wherever they are: the other rows are kept."""
    layout = Layout.at(tmp_path / "run")
    folder = write_own(tmp_path / "own", **impressions(unit, column, rows=slice(0, None, 2)))
    counts = import_parquet(folder, layout, SIMULATOR)
    results = [ingest(layout, day, PROFILES["demo"]) for day in counts.days]
    assert sum(r.read for r in results) == 90
    assert sum(r.kept for r in results) == 45
    reasons = {name for r in results for name in r.quarantined}
    assert reasons == {f"{column} is in {unit}, not in milliseconds"}


def test_one_file_in_another_unit_and_more_rows_in_milliseconds(tmp_path: Path) -> None:
    """Its rows are the first day's, where ingest refuses them; one more and the import stops."""
    layout = Layout.at(tmp_path / "run")
    tables = impressions("microseconds", "event_time", "arrival_time")
    mixed = {**tables, "impressions-a": impressions("seconds")["impressions-a"]}
    counts = import_parquet(write_own(tmp_path / "own", **mixed), layout, SIMULATOR)
    assert counts.days == DAYS[:2]
    first = ingest(layout, DAYS[0], PROFILES["demo"])
    assert first.quarantined == {"event_time is in microseconds, not in milliseconds": 30}
    assert first.kept == 30
    mixed = {**tables, "impressions-b": impressions("seconds")["impressions-b"]}
    with pytest.raises(ValueError, match=r"event_time is \d+ to \d+ in 60 rows"):
        import_parquet(write_own(tmp_path / "own", **mixed), layout, SIMULATOR)


@pytest.mark.parametrize("start", ["2000-01-01", "2013-07-05", "2026-01-05", "2099-12-31"])
def test_milliseconds_of_every_plausible_year_come_in(tmp_path: Path, start: str) -> None:
    layout, day = Layout.at(tmp_path / "run"), make_impressions(SIMULATOR, start, 9)
    posts = set_value(make_posts(SIMULATOR, 9), "created_ms", 2, SANE_MS[0])
    own = {"impressions-a": day, "impressions-b": day.slice(0, 0), "posts": posts}
    counts = import_parquet(write_own(tmp_path / "own", **own), layout, SIMULATOR)
    assert counts.days == (start,)
    result = ingest(layout, start, PROFILES["demo"])
    assert (result.kept, result.posts.kept) == (9, 9)


@pytest.mark.parametrize("time", [0, 5, -1, 10**10, 2**62, None])
def test_no_time_in_any_unit_is_one_sentence(tmp_path: Path, time: Any) -> None:
    table = make_impressions(SIMULATOR, DAYS[0], 3)
    for row in range(3):
        table = set_value(table, "arrival_time", row, time)
    own = {"impressions-a": table, "impressions-b": table.slice(0, 0)}
    have = "there is none" if time is None else f"it is {time} to {time}"
    message = f"no impression has an arrival_time between 2000 and 2099, {have}; want milliseconds"
    with pytest.raises(ValueError, match=message):
        import_parquet(write_own(tmp_path / "own", **own), Layout.at(tmp_path / "run"), SIMULATOR)


TYPES = [
    *(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")),
    *(pa.timestamp(unit, tz) for unit in ("ms", "us") for tz in ("UTC", "Asia/Shanghai")),
    *(pa.date32(), pa.date64(), pa.duration("ms"), pa.float64(), pa.uint64(), pa.string()),
]


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_times_of_another_type_are_refused_by_name(tmp_path: Path, kind: pa.DataType) -> None:
    """Nobody's zone is guessed: whoever has timestamps makes milliseconds of them."""
    table = make_impressions(SIMULATOR, DAYS[0], 3)
    for name, column in (("impressions-a", "event_time"), ("posts", "created_ms")):
        table = make_posts(SIMULATOR, 30) if name == "posts" else table
        place = table.schema.get_field_index(column)
        base = pa.array([1_770_109_200] * table.num_rows, pa.int64())
        base = base.cast(pa.int32()) if kind == pa.date32() else base
        changed = table.set_column(place, column, base.cast(kind, safe=False))
        folder = write_own(tmp_path / name, **{name: changed})
        with pytest.raises(ValueError, match=f"column '{column}' is ") as error:
            import_parquet(folder, Layout.at(tmp_path / "run"), SIMULATOR)
        unit = " (milliseconds since 1970, UTC)" if pa.types.is_temporal(kind) else ""
        assert f", want int64{unit}; cast it before ingest" in str(error.value)
