# SPDX-License-Identifier: Apache-2.0
"""What is missing from a copy of KuaiRand, or cannot be read, is one sentence; bad rows go on."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.config import PROFILES
from components.layout.paths import Layout
from components.log.ingest import ingest
from components.log.sources import import_kuairand
from feature_repo.spec import DAY_MS
from feature_repo.specs import SIMULATOR
from tests.kuairand_builders import MIDNIGHT, write_csv, write_partial
from tests.raw_builders import digest


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("user_features_pure.csv", r"has no user_features_\*\.csv"),
        ("video_features_basic_pure.csv", r"has no video_features_basic_\*\.csv"),
    ],
)
def test_a_missing_csv_file(tmp_path: Path, name: str, message: str) -> None:
    folder = write_csv(tmp_path)
    (folder / "KuaiRand-Pure" / "data" / name).unlink()
    with pytest.raises(ValueError, match=message):
        import_kuairand(folder, Layout.at(tmp_path / "run"))


def test_a_missing_parquet_file(tmp_path: Path) -> None:
    folder = write_partial(tmp_path / "copy")
    (folder / "prehistory.parquet").unlink()
    with pytest.raises(ValueError, match=r"has no prehistory\.parquet"):
        import_kuairand(folder, Layout.at(tmp_path / "run"))


@pytest.mark.parametrize("column", ["time_ms", "tab", "long_view"])
def test_a_missing_column_keeps_what_was_there(tmp_path: Path, column: str) -> None:
    layout = Layout.at(tmp_path / "run")
    folder = write_partial(tmp_path / "copy")
    import_kuairand(folder, layout)
    before = digest(layout.root)
    log = pq.read_table(folder / "impressions.parquet")
    pq.write_table(log.drop_columns(column), folder / "impressions.parquet")
    with pytest.raises(ValueError, match=rf"impressions\.parquet has no column '{column}'"):
        import_kuairand(folder, layout)
    assert digest(layout.root) == before


def test_values_that_cannot_be_read(tmp_path: Path) -> None:
    folder = write_csv(tmp_path)
    log = next((folder / "KuaiRand-Pure" / "data").glob("log_standard_4_22*"))
    text = log.read_text()
    log.write_text(text.replace(str(MIDNIGHT), "yesterday"))
    with pytest.raises(ValueError, match=r"cannot be read: .*yesterday") as error:
        import_kuairand(folder, Layout.at(tmp_path / "run"))
    assert "\n" not in str(error.value)
    log.write_text(text.replace(str(MIDNIGHT), ""))
    with pytest.raises(ValueError, match="time_ms is empty in 2 rows"):
        import_kuairand(folder, Layout.at(tmp_path / "run"))


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("time_ms", str(MIDNIGHT // 1000), "event_time is in seconds, not in milliseconds"),
        ("time_ms", str(MIDNIGHT * 1000), "event_time is in microseconds, not in milliseconds"),
        ("time_ms", "1000000000000000000", "event_time is in nanoseconds, not in milliseconds"),
        ("time_ms", "8000000000000000000", "event_time is out of range"),
        ("time_ms", "0", "event_time is out of range"),
        ("is_click", "300", "click is not -1, 0 or 1"),
        ("play_time_ms", "99999999999", "dwell_ms is negative"),
    ],
)
def test_a_number_out_of_range_ends_in_quarantine(
    tmp_path: Path, column: str, value: str, reason: str
) -> None:
    folder, layout = write_csv(tmp_path), Layout.at(tmp_path / "run")
    log = next((folder / "KuaiRand-Pure" / "data").glob("log_standard_4_22*"))
    head, *lines = log.read_text().splitlines()
    row = lines[-1].split(",")
    row[head.split(",").index(column)] = value
    log.write_text("\n".join([head, *lines[:-1], ",".join(row), ""]))
    counts = import_kuairand(folder, layout)
    assert counts.days == ("2022-04-23", "2022-04-25")
    results = [ingest(layout, day, PROFILES["kuairand"]) for day in counts.days]
    assert sum(r.read for r in results) == 5
    assert {k: v for r in results for k, v in r.quarantined.items()} == {reason: 1}


def test_a_log_without_times_is_one_sentence(tmp_path: Path) -> None:
    folder = write_csv(tmp_path)
    for log in (folder / "KuaiRand-Pure" / "data").glob("log_standard_*"):
        log.write_text(re.sub(r"\b16\d{11}\b", "16", log.read_text()))
    with pytest.raises(ValueError, match=r"no time_ms is a time between .*, it is 16 to 16; "):
        import_kuairand(folder, Layout.at(tmp_path / "run"))


OTHER_UNITS = [
    ("seconds", 10**3, 1, "multiply by 1,000"),
    ("microseconds", 1, 10**3, "divide by 1,000"),
    ("nanoseconds", 1, 10**6, "divide by 1,000,000"),
]
IN_OTHER_UNITS = pytest.mark.parametrize(
    ("unit", "by", "times", "mend"), OTHER_UNITS, ids=[u[0] for u in OTHER_UNITS]
)


@IN_OTHER_UNITS
def test_a_log_in_another_unit_is_one_sentence_and_replaces_nothing(
    tmp_path: Path, unit: str, by: int, times: int, mend: str
) -> None:
    layout, folder = Layout.at(tmp_path / "run"), write_csv(tmp_path)
    import_kuairand(folder, layout)
    before = digest(layout.root)

    def other(number: re.Match[str]) -> str:
        return str(int(number[0]) // by * times)

    for log in (folder / "KuaiRand-Pure" / "data").glob("log_standard_*"):
        log.write_text(re.sub(r"\b16\d{11}\b", other, log.read_text()))
    with pytest.raises(ValueError, match="time_ms is") as error:
        import_kuairand(folder, layout)
    low, high = ((MIDNIGHT + add) // by * times for add in (-2 * DAY_MS, DAY_MS - 1))
    said = str(error.value)
    span = re.search(r"time_ms is (\d+) to (\d+) in 5 rows: read as milliseconds that", said)
    assert span is not None
    # A file may write a number as 9.0: nanoseconds lose their last digits.
    assert [int(end) for end in span.groups()] == pytest.approx([low, high], rel=1e-15)
    assert f"read as {unit} it would be 2022-04-22 to 2022-04-25; times are milli" in said
    assert f"{mend} and bring the log again" in said
    assert digest(layout.root) == before


@IN_OTHER_UNITS
def test_last_times_in_another_unit_are_one_sentence(
    tmp_path: Path, unit: str, by: int, times: int, mend: str
) -> None:
    folder = write_partial(tmp_path)
    rows = pq.read_table(folder / "users.parquet").to_pylist()
    for row in rows:
        if row["prehist_last_time_ms"] is not None:
            row["prehist_last_time_ms"] = row["prehist_last_time_ms"] // by * times
    pq.write_table(pa.Table.from_pylist(rows), folder / "users.parquet")
    message = rf"users\.parquet: prehist_last_time_ms is \d+ to \d+ in 2 rows: .* as {unit} it"
    with pytest.raises(ValueError, match=message):
        import_kuairand(folder, Layout.at(tmp_path / "run"))


def test_times_as_timestamps_are_one_sentence(tmp_path: Path) -> None:
    folder = write_partial(tmp_path)
    table = pq.read_table(folder / "impressions.parquet")
    place = table.schema.get_field_index("time_ms")
    stamps = table["time_ms"].cast(pa.timestamp("ms", tz="UTC"))
    pq.write_table(table.set_column(place, "time_ms", stamps), folder / "impressions.parquet")
    with pytest.raises(ValueError, match=r"impressions\.parquet: column 'time_ms'") as error:
        import_kuairand(folder, Layout.at(tmp_path / "run"))
    assert "\n" not in str(error.value)
    assert "milliseconds" in str(error.value)


def test_another_spec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="spec simulator has no feature 'tab'"):
        import_kuairand(write_csv(tmp_path), Layout.at(tmp_path / "run"), SIMULATOR)


def test_two_sets_in_one_folder(tmp_path: Path) -> None:
    folder = write_csv(tmp_path)
    (folder / "KuaiRand-Pure").rename(folder / "KuaiRand-1K")
    write_csv(tmp_path)
    with pytest.raises(ValueError, match="holds several KuaiRand sets"):
        import_kuairand(folder, Layout.at(tmp_path / "run"))
