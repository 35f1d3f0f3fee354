# SPDX-License-Identifier: Apache-2.0
"""KuaiRand's columns as the feed's: each expression on rows that are right, wrong and absent."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.log.sources import kuairand_sql as sql
from components.log.sources.kuairand_sql import ACTIVE_DEGREES, UPLOAD_TYPES
from feature_repo.kinds import Categorical
from feature_repo.spec import DAY_MS
from feature_repo.specs import KUAIRAND

MIDNIGHT = 1_650_816_000_000
"""2022-04-25 00:00 UTC+8."""
DAY = (MIDNIGHT + sql.UTC_OFFSET_MS) // DAY_MS
TABS = 15
TABLES = {
    "log": sql.LOG_COLUMNS,
    "prehistory": sql.PREHISTORY_COLUMNS,
    "users": {**sql.USER_COLUMNS, **sql.LAST_TIME_COLUMNS},
    "items": sql.ITEM_COLUMNS,
}
CARDINALITY = {
    f.name: f.kind.cardinality for f in KUAIRAND.features if isinstance(f.kind, Categorical)
}

Rows = list[dict[str, Any]]


def query(text: str, **tables: Rows) -> Rows:
    """The rows of a query; a column that a table's row does not name is null."""
    with duckdb.connect() as connection:
        for name, columns in TABLES.items():
            kinds = ", ".join(f"{column} {kind}" for column, kind in columns.items())
            connection.execute(f"CREATE TABLE {name} ({kinds})")
            for row in tables.get(name, []):
                values = [row.get(column) for column in columns]
                marks = ", ".join("?" * len(values))
                connection.execute(f"INSERT INTO {name} VALUES ({marks})", values)
        return connection.execute(text).to_arrow_table().to_pylist()


def test_the_codes_are_what_they_were() -> None:
    """A model and every history remember codes: the lists may grow at their ends alone."""
    degrees = "full_active high_active middle_active low_active single_low_active 2_14_day_new"
    assert " ".join(ACTIVE_DEGREES) == f"{degrees} day_new 30day_retention"
    assert " ".join(UPLOAD_TYPES) == (
        "LongImport Web ShortImport Kmovie LongPicture PictureSet LongCamera ShortCamera "
        "ShareFromOtherApp FollowShoot AiCutVideo LipsSync PhotoCopy"
    )


NAMES = ("b", "a", "day_new")


@settings(deadline=None)
@given(st.one_of(st.none(), st.sampled_from([*NAMES, "", "A", "x"])))
def test_a_code_is_a_place_in_the_list(text: str | None) -> None:
    value = "NULL::VARCHAR" if text is None else f"'{text}'"
    ((code,),) = duckdb.sql(f"SELECT {sql.code(value, NAMES)}").fetchall()
    assert code == (NAMES.index(text) if text in NAMES else -1)


@settings(deadline=None)
@given(st.one_of(st.none(), st.integers(-300, 300)), st.integers(1, 200))
def test_a_code_outside_of_its_range_is_unknown(number: int | None, cardinality: int) -> None:
    value = "NULL::BIGINT" if number is None else f"({number})"
    ((code,),) = duckdb.sql(f"SELECT {sql.in_range(value, cardinality)}").fetchall()
    assert code == (number if number is not None and 0 <= number < cardinality else -1)


@pytest.mark.parametrize(
    ("text", "number"),
    [("'9'", 9), ("'9.0'", 9), ("9.0", 9), ("'nan'", None), ("NULL", None), ("'-124'", -124)],
)
def test_a_number_is_read_however_a_file_writes_it(text: str, number: int | None) -> None:
    column = sql.read_column("x", "BIGINT")
    assert duckdb.sql(f"SELECT {column} FROM (SELECT {text} AS x)").fetchall() == [(number,)]


def test_a_text_stays_a_text() -> None:
    column = sql.read_column("x", "VARCHAR")
    assert duckdb.sql(f"SELECT {column} FROM (SELECT 9 AS x)").fetchall() == [("9",)]


def timed(**values: Any) -> dict[str, Any]:
    """One row of the log as an impression."""
    row = {"user_id": 1, "video_id": 2, "time_ms": MIDNIGHT, "tab": 3, "is_click": 0}
    other = {"user_id": 7, "video_id": 8, "time_ms": MIDNIGHT + DAY_MS}
    rows = query(sql.timed(TABS), log=[{**row, **values}, other])
    return next(row for row in rows if row["member_id"] == 1)


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ({}, {"timed": True, "position": -1, "request_id": None, "tab": 3, "hour": 0, "day": DAY}),
        ({"time_ms": MIDNIGHT - 1}, {"hour": 23, "day": DAY - 1, "arrival_time": MIDNIGHT - 1}),
        ({"time_ms": 5}, {"hour": -1, "day": DAY + 1, "event_time": 5}),
        ({"tab": TABS}, {"tab": -1}),
        ({"tab": None}, {"tab": -1}),
        ({"is_click": 1, "is_like": 0}, {"click": 1, "like": 0, "comment": -1}),
        ({"is_click": 300}, {"click": 127}),
        ({"is_click": -300}, {"click": -128}),
        ({"play_time_ms": 2999}, {"skip": 1, "dwell_ms": 2999}),
        ({"play_time_ms": 3000}, {"skip": 0}),
        ({"play_time_ms": 5, "is_click": 1}, {"skip": 0, "click": 1}),
        ({"play_time_ms": None}, {"skip": -1, "dwell_ms": None}),
        ({"play_time_ms": 2**31 - 1}, {"dwell_ms": 2**31 - 1}),
        ({"play_time_ms": 2**31}, {"dwell_ms": -1}),
        ({"play_time_ms": -1}, {"dwell_ms": -1}),
        ({"long_view": 1, "is_forward": 1}, {"long_dwell": 1, "share": 1}),
    ],
)
def test_a_row_of_the_log_as_an_impression(values: dict[str, Any], want: dict[str, Any]) -> None:
    """A row whose time is none is put with the first day's, where ingest refuses it."""
    got = timed(**values)
    assert {name: got[name] for name in want} == want
    assert set(got) == {*KUAIRAND.impression_schema.names, "day"}


END = MIDNIGHT + DAY_MS


@pytest.mark.parametrize(
    ("last", "first", "newest"),
    [
        (MIDNIGHT + 5, None, MIDNIGHT + 5),
        (MIDNIGHT + 5, MIDNIGHT + 900, MIDNIGHT + 5),
        (MIDNIGHT + 900, MIDNIGHT + 900, MIDNIGHT + 899),
        (MIDNIGHT + 5, MIDNIGHT - 9, MIDNIGHT - 10),
        (END + 7, None, END - 1),
        (None, None, END - 2 * DAY_MS),
        (None, 5, END - 2 * DAY_MS),
    ],
)
def test_the_prehistory_ends_before_the_first_timed_row_and_the_days_end(
    last: int | None, first: int | None, newest: int
) -> None:
    """A second apart, in the order of their places; a time that is none is no first one."""
    rows = query(
        sql.untimed(DAY),
        log=[] if first is None else [{"user_id": 1, "video_id": 9, "time_ms": first}],
        users=[{"user_id": 1, "prehist_last_time_ms": last}],
        prehistory=[{"user_id": 1, "pos": p, "video_id": 10 + p, "is_like": 1} for p in (2, 0, 1)],
    )
    times = {row["post_id"]: row["event_time"] for row in rows}
    assert times == {10: newest - 2000, 11: newest - 1000, 12: newest}
    assert all(row["arrival_time"] == row["event_time"] for row in rows)
    unknown = ("click", "skip", "comment", "share", "tab", "hour", "position", "long_dwell")
    assert {row[name] for row in rows for name in unknown} == {-1}
    assert {(row["like"], row["dwell_ms"], row["timed"], row["day"]) for row in rows} == {
        (1, None, False, DAY)
    }


def test_a_member_that_no_table_knows_has_a_prehistory_too() -> None:
    (row,) = query(sql.untimed(DAY), prehistory=[{"user_id": 5, "pos": 0, "video_id": 1}])
    assert (row["member_id"], row["event_time"]) == (5, END - 2 * DAY_MS)


def test_a_video_as_a_post() -> None:
    items = [
        {"video_id": 2, "author_id": 7, "upload_dt": "2022-04-25", "tag": "39,68,1"},
        {"video_id": 1, "author_id": 8, "upload_dt": "no day", "tag": "x", "music_type": 4},
    ]
    first, second = query(sql.posts(CARDINALITY, False), items=items)
    assert (first["post_id"], first["created_ms"], first["tag"]) == (1, -1, -1)
    assert (first["music_type"], first["second_tag"], first["upload_type"]) == (4, -1, -1)
    assert (second["created_ms"], second["tag"], second["second_tag"]) == (MIDNIGHT, 39, 68)
    assert second["root_actor_id"] == second["actor_id"] == 7
    assert second["duration_s"] != second["duration_s"]
    assert list(first) == KUAIRAND.post_schema.names


def test_a_count_below_zero_is_missing() -> None:
    users = [{"user_id": 1, "follow_user_num": -124, "fans_user_num": 0, "is_live_streamer": 2}]
    (member,) = query(sql.MEMBERS, users=users)
    assert member["follows"] != member["follows"]
    assert (member["fans"], member["is_live_streamer"], member["active_degree"]) == (0.0, -1, -1)
    assert list(member) == KUAIRAND.member_schema.names
