# SPDX-License-Identifier: Apache-2.0
"""KuaiRand's two layouts become the same impressions, and a missing piece ends in one sentence."""

from __future__ import annotations

import math
import os
import re
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.config import PROFILES
from components.layout.paths import Layout
from components.log.duplicates import DIFFERS
from components.log.ingest import ingest
from components.log.sources import detect_source, import_kuairand
from components.log.sources.kuairand_sql import ACTIVE_DEGREES, UPLOAD_TYPES
from feature_repo.spec import DAY_MS
from feature_repo.specs import KUAIRAND, SIMULATOR
from tests.raw_builders import digest

HOUR_MS = 3_600_000
MIDNIGHT = 1_650_816_000_000
"""2022-04-25 00:00 UTC+8."""
PUBLISHED = {
    "is_follow": 0,
    "is_hate": 0,
    "profile_stay_time": 0,
    "comment_stay_time": 0,
    "is_profile_enter": 0,
    "is_rand": 0,
}


def impression(user: int, video: int, time_ms: int, **values: Any) -> dict[str, Any]:
    """A published log row; `date` and `hourmin` are wrong, as some published ones are."""
    row = {
        "user_id": user,
        "video_id": video,
        "date": 20220101,
        "hourmin": 1300,
        "time_ms": time_ms,
        "is_click": 0,
        "is_like": 0,
        "is_comment": 0,
        "is_forward": 0,
        "long_view": 0,
        "play_time_ms": 500,
        "duration_ms": 60_000,
        "tab": 1,
    }
    return {**row, **PUBLISHED, **values}


EARLY = [impression(1, 10, MIDNIGHT - 2 * DAY_MS, is_click=1, long_view=1, play_time_ms=9000)]
LATER = [
    impression(1, 11, MIDNIGHT, is_like=1, play_time_ms=2999),
    impression(1, 11, MIDNIGHT, is_like=1, play_time_ms=2999),
    impression(1, 12, MIDNIGHT + 3 * HOUR_MS, play_time_ms=3000, tab=14, is_comment=1),
    impression(2, 10, MIDNIGHT + DAY_MS - 1, is_click=1, is_forward=1, play_time_ms=100, tab=99),
]
USERS = [
    {
        "user_id": user,
        "user_active_degree": degree,
        "is_lowactive_period": 0,
        "is_live_streamer": streamer,
        "is_video_author": 1,
        "follow_user_num": 514,
        "fans_user_num": 150,
        "friend_user_num": 34,
        "register_days": days,
        "onehot_feat4": 1.0,
    }
    for user, degree, streamer, days in [
        (1, "full_active", -124, 799),
        (2, "UNKNOWN", 1, -124),
        (3, "day_new", 0, 5),
    ]
]
ITEMS = [
    {
        "video_id": video,
        "author_id": 1000 + video,
        "video_type": "NORMAL",
        "upload_dt": "2022-04-10",
        "upload_type": kind,
        "visible_status": 0.0,
        "video_duration": duration,
        "server_width": 720.0,
        "server_height": 1280.0,
        "music_id": 9_155_697_141,
        "music_type": music,
        "tag": tag,
    }
    for video, kind, duration, music, tag in [
        (10, "LongImport", 87_433.0, 9.0, "39,68"),
        (11, "SomethingNew", None, None, "7"),
        (12, "PhotoCopy", 1000.0, 4.0, None),
    ]
]
BEFORE = [
    {"user_id": user, "pos": pos, "video_id": 10 + pos % 3, "long_view": 1, "is_like": 0}
    for user, places in [(1, (60, 61, 62)), (2, (0, 1)), (3, (0,))]
    for pos in places
]


def write_csv(folder: Path) -> Path:
    """The published layout as its archive unpacks; returns the folder around it."""
    data = folder / "KuaiRand-Pure" / "data"
    data.mkdir(parents=True)
    files = {
        "log_standard_4_08_to_4_21_pure": EARLY,
        "log_standard_4_22_to_5_08_pure": LATER,
        "log_random_4_22_to_5_08_pure": [impression(3, 10, MIDNIGHT, is_rand=1)],
        "user_features_pure": USERS,
        "video_features_basic_pure": ITEMS,
        "video_features_statistic_pure": [{"video_id": 10, "counts": 1}],
    }
    for name, rows in files.items():
        pa.Table.from_pylist(rows).to_pandas().to_csv(data / f"{name}.csv", index=False)
    return folder


def write_partial(folder: Path) -> Path:
    """The partial Parquet layout."""
    folder.mkdir(exist_ok=True)
    last = {1: MIDNIGHT + 5, 2: MIDNIGHT - 3 * DAY_MS, 3: None}
    users = [{**user, "prehist_last_time_ms": last[user["user_id"]]} for user in USERS]
    authors = {item["video_id"]: item["author_id"] for item in ITEMS}
    files = {"users": users, "items": ITEMS}
    files["impressions"] = [{**r, "author_id": authors[r["video_id"]]} for r in EARLY + LATER]
    files["prehistory"] = [{**r, "author_id": authors[r["video_id"]]} for r in BEFORE]
    for name, rows in files.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return folder


def raw_rows(layout: Layout) -> list[dict[str, Any]]:
    tables = [pq.read_table(layout.raw_day(day)) for day in layout.raw_days()]
    assert all(table.schema == KUAIRAND.event_schema for table in tables)
    return pa.concat_tables(tables).to_pylist()


def test_the_published_layout(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path / "run")
    counts = import_kuairand(write_csv(tmp_path / "download"), layout)
    assert counts.days == ("2022-04-23", "2022-04-25")
    assert (counts.impressions, counts.posts, counts.members) == (5, 3, 3)
    assert counts.notes == {"timed": 5}
    rows = raw_rows(layout)
    common = {"timed": True, "request_id": None, "position": -1}
    assert all(row.items() >= common.items() for row in rows)
    assert all(row["arrival_time"] == row["event_time"] for row in rows)
    assert rows[0] == {
        **common,
        "member_id": 1,
        "post_id": 10,
        "event_time": MIDNIGHT - 2 * DAY_MS,
        "arrival_time": MIDNIGHT - 2 * DAY_MS,
        "dwell_ms": 9000,
        "tab": 1,
        "hour": 0,
        "click": 1,
        "skip": 0,
        "long_dwell": 1,
        "like": 0,
        "comment": 0,
        "share": 0,
    }
    assert rows[1] == rows[2]
    picked = [(r["skip"], r["like"], r["comment"], r["share"], r["tab"], r["hour"]) for r in rows]
    assert picked[1:] == [
        (1, 1, 0, 0, 1, 0),
        (1, 1, 0, 0, 1, 0),
        (0, 0, 1, 0, 14, 3),
        (0, 0, 0, 1, -1, 23),
    ]
    _check_tables(layout)


def _check_tables(layout: Layout) -> None:
    posts = {r["post_id"]: r for r in pq.read_table(layout.raw_posts).to_pylist()}
    assert pq.read_schema(layout.raw_posts) == KUAIRAND.post_schema
    assert posts[10]["created_ms"] == 1_649_520_000_000
    assert (posts[10]["actor_id"], posts[10]["tag"], posts[10]["second_tag"]) == (1010, 39, 68)
    assert (posts[10]["upload_type"], posts[10]["music_type"]) == (0, 9)
    assert posts[10]["duration_s"] == pytest.approx(87.433)
    assert (posts[11]["upload_type"], posts[11]["music_type"], posts[11]["tag"]) == (-1, -1, 7)
    assert math.isnan(posts[11]["duration_s"])
    assert posts[12]["upload_type"] == UPLOAD_TYPES.index("PhotoCopy")
    assert (posts[12]["tag"], posts[12]["second_tag"]) == (-1, -1)
    members = {r["member_id"]: r for r in pq.read_table(layout.raw_members).to_pylist()}
    assert pq.read_schema(layout.raw_members) == KUAIRAND.member_schema
    assert (members[1]["active_degree"], members[1]["is_live_streamer"]) == (0, -1)
    assert (members[2]["active_degree"], members[2]["is_live_streamer"]) == (-1, 1)
    assert math.isnan(members[2]["register_days"])
    assert members[3]["active_degree"] == ACTIVE_DEGREES.index("day_new")
    assert (members[3]["follows"], members[3]["register_days"]) == (514.0, 5.0)


def test_the_partial_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.log.sources.kuairand.MIN_DAY_ROWS", 3)
    layout = Layout.at(tmp_path / "run")
    counts = import_kuairand(write_partial(tmp_path / "copy"), layout)
    assert counts.days == ("2022-04-23", "2022-04-24", "2022-04-25")
    assert counts.notes == {"timed": 5, "untimed": 6, "clamped_members": 1}
    rows = raw_rows(layout)
    timed = [r for r in rows if r["timed"]]
    twin = Layout.at(tmp_path / "twin")
    import_kuairand(write_csv(tmp_path / "download"), twin)
    assert timed == raw_rows(twin)
    _check_tables(layout)
    untimed = [r for r in rows if not r["timed"]]
    assert untimed == pq.read_table(layout.raw_day("2022-04-24")).to_pylist()
    unknown = ("click", "skip", "comment", "share", "tab", "hour", "position")
    assert all(r[name] == -1 for r in untimed for name in unknown)
    assert all((r["long_dwell"], r["like"], r["dwell_ms"]) == (1, 0, None) for r in untimed)
    times = {(r["member_id"], r["post_id"]): r["event_time"] for r in untimed}
    first = MIDNIGHT - 2 * DAY_MS
    assert [times[1, post] for post in (10, 11, 12)] == [first - 2001, first - 1001, first - 1]
    assert [times[2, 10], times[2, 11]] == [MIDNIGHT - 3 * DAY_MS - 1000, MIDNIGHT - 3 * DAY_MS]
    assert times[3, 10] == MIDNIGHT - 2 * DAY_MS
    results = [ingest(layout, day, PROFILES["kuairand"]) for day in layout.raw_days()]
    assert [(r.kept, r.duplicates, r.quarantined) for r in results] == [
        (1, 0, {}),
        (6, 0, {}),
        (3, 1, {}),
    ]


def test_the_same_bytes_again(tmp_path: Path) -> None:
    source = write_partial(tmp_path / "copy")
    for name in ("a", "b"):
        import_kuairand(source, Layout.at(tmp_path / name))
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_detection(tmp_path: Path) -> None:
    around = write_csv(tmp_path / "download")
    inner = around / "KuaiRand-Pure"
    for folder in (around, inner, inner / "data", write_partial(tmp_path / "copy")):
        assert detect_source(folder).name == "kuairand"
    with pytest.raises(ValueError, match="holds no log that is known"):
        detect_source(tmp_path)
    with pytest.raises(ValueError, match="there is no folder"):
        detect_source(tmp_path / "nowhere")


def test_a_video_only_the_log_knows(tmp_path: Path) -> None:
    folder = write_partial(tmp_path / "copy")
    pq.write_table(pa.Table.from_pylist(ITEMS[:2]), folder / "items.parquet")
    layout = Layout.at(tmp_path / "run")
    import_kuairand(folder, layout)
    post = pq.read_table(layout.raw_posts).to_pylist()[2]
    assert (post["post_id"], post["actor_id"], post["created_ms"]) == (12, 1012, -1)
    assert (post["tag"], post["upload_type"]) == (-1, -1)


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

    def other(found: re.Match[str]) -> str:
        return str(int(found[0]) // by * times)

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


@pytest.mark.kuairand
def test_the_real_log(tmp_path: Path) -> None:
    source = os.environ.get("FEEDSR_KUAIRAND", "")
    if not source or not Path(source).is_dir():
        pytest.skip("FEEDSR_KUAIRAND names no folder with KuaiRand")
    folder, layout = Path(source), Layout.at(tmp_path)
    began = time.perf_counter()
    counts = import_kuairand(folder, layout)
    results = [ingest(layout, day, PROFILES["kuairand"]) for day in layout.raw_days()]
    assert time.perf_counter() - began < 60
    assert counts.notes == {"timed": 185_177, "untimed": 817_187, "clamped_members": 3}
    assert (len(counts.days), counts.days[0]) == (12, "2022-04-24")
    distinct, impressions = duckdb.sql(f"""SELECT
        (SELECT count(*) FROM (SELECT DISTINCT * FROM '{folder}/impressions.parquet')),
        (SELECT count(*) FROM (SELECT DISTINCT user_id, video_id, time_ms
                               FROM '{folder}/impressions.parquet'))""").fetchall()[0]
    timed = sum(r.kept - r.untimed for r in results)
    refused = sum(r.quarantined.get(DIFFERS, 0) for r in results)
    assert distinct == 180_495
    assert timed == impressions == 180_129
    assert refused == 7 == sum(sum(r.quarantined.values()) for r in results)
    assert sum(r.duplicates for r in results) == 185_177 - timed - refused
    assert sum(r.untimed for r in results) == 817_187
    assert sum(r.unknown_posts + r.unknown_members for r in results) == 0
    order = duckdb.sql(f"""SELECT count(*) FROM (
        SELECT member_id, max(event_time) FILTER (NOT timed) AS last,
            min(event_time) FILTER (timed) AS first
        FROM read_parquet('{layout.root}/impressions/*/part.parquet') GROUP BY member_id)
        WHERE last >= first""").fetchall()
    assert order == [(0,)]


def test_the_codes_are_what_they_were() -> None:
    """A model and every history remember codes: the lists may grow at their ends alone."""
    degrees = "full_active high_active middle_active low_active single_low_active 2_14_day_new"
    assert " ".join(ACTIVE_DEGREES) == f"{degrees} day_new 30day_retention"
    assert " ".join(UPLOAD_TYPES) == (
        "LongImport Web ShortImport Kmovie LongPicture PictureSet LongCamera ShortCamera "
        "ShareFromOtherApp FollowShoot AiCutVideo LipsSync PhotoCopy"
    )
