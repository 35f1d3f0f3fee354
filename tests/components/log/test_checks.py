# SPDX-License-Identifier: Apache-2.0
"""What a row must hold, at each limit and its neighbour; the first fault names the reason."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from components.log.checks import impression_reasons, member_reasons, post_reasons
from feature_repo.specs import KUAIRAND, SIMULATOR
from tests.raw_builders import make_impressions, make_members, make_posts, set_value

DAY_MS = 24 * 60 * 60 * 1000
NUMBER = 20_487
"""2026-02-03, which at UTC begins at START."""
START = 1_770_076_800_000
END = START + DAY_MS
OLDEST = START - 7 * DAY_MS
NAN, INF = float("nan"), float("inf")
ROW = {"event_time": START + 1000, "arrival_time": START + 2000, "timed": True}

IMPRESSIONS: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"member_id": 0}, ""),
    ({"member_id": -1}, "member_id is negative"),
    ({"member_id": None}, "member_id is null"),
    ({"post_id": 0}, ""),
    ({"post_id": -1}, "post_id is negative"),
    ({"post_id": None}, "post_id is null"),
    ({"request_id": None}, ""),
    ({"request_id": -5}, ""),
    ({"position": -1}, ""),
    ({"position": -2}, "position is below -1"),
    ({"position": None}, "position is null"),
    ({"dwell_ms": 0}, ""),
    ({"dwell_ms": None}, ""),
    ({"dwell_ms": -1}, "dwell_ms is negative"),
    ({"surface": 3}, ""),
    ({"surface": 4}, "surface is not in [-1, 4)"),
    ({"hour": -1}, ""),
    ({"hour": -2}, "hour is not in [-1, 24)"),
    ({"hour": None}, "hour is null"),
    ({"share": 1}, ""),
    ({"share": 2}, "share is not -1, 0 or 1"),
    ({"click": -2}, "click is not -1, 0 or 1"),
    ({"timed": None}, "timed is null"),
    ({"event_time": None}, "event_time is null"),
    ({"arrival_time": None}, "arrival_time is null"),
    ({"event_time": START + 2000}, ""),
    ({"event_time": START + 2001}, "event_time is after arrival_time"),
    ({"arrival_time": START, "event_time": START}, ""),
    ({"arrival_time": START - 1, "event_time": START - 1}, "arrival_time is before the day"),
    ({"arrival_time": START - 1, "event_time": START - 1, "timed": False}, ""),
    ({"arrival_time": END - 1}, ""),
    ({"arrival_time": END}, "arrival_time is after the day"),
    ({"arrival_time": END, "timed": False}, "arrival_time is after the day"),
    ({"event_time": OLDEST}, ""),
    ({"event_time": OLDEST - 1}, "arrived more than 7 days late"),
    ({"event_time": OLDEST - 1, "timed": False}, ""),
    ({"event_time": 946_684_800_000, "timed": False}, ""),
    ({"event_time": 946_684_799_999, "timed": False}, "event_time is out of range"),
    ({"event_time": 1_770_076_801}, "event_time is in seconds, not in milliseconds"),
    ({"arrival_time": 946_684_799_999}, "arrival_time is out of range"),
    ({"arrival_time": 4_102_444_800_000}, "arrival_time is out of range"),
    ({"arrival_time": 10**15}, "arrival_time is in microseconds, not in milliseconds"),
    ({"arrival_time": 10**18}, "arrival_time is in nanoseconds, not in milliseconds"),
    # The first of several.
    ({"member_id": None, "post_id": -1, "surface": 9}, "member_id is null"),
    ({"post_id": -1, "event_time": 0, "share": 7}, "post_id is negative"),
    ({"event_time": 0, "arrival_time": 0}, "event_time is out of range"),
    ({"arrival_time": END, "position": -9, "dwell_ms": -9}, "arrival_time is after the day"),
    ({"position": -9, "dwell_ms": -9, "hour": 99}, "position is below -1"),
    ({"dwell_ms": -9, "hour": 99, "like": 3}, "dwell_ms is negative"),
    ({"hour": 99, "like": 3}, "hour is not in [-1, 24)"),
]


def table_of(make: Any, rows: list[dict[str, Any]]) -> pa.Table:
    table = make(len(rows))
    for number, row in enumerate(rows):
        for name, value in row.items():
            table = set_value(table, name, number, value)
    return table


def test_each_limit_of_an_impression() -> None:
    """All in one table: a row's reason is its own, and the good ones between them are good."""
    table = table_of(
        lambda n: make_impressions(SIMULATOR, "2026-02-03", n),
        [{**ROW, **c} for c, _ in IMPRESSIONS],
    )
    got = impression_reasons(table, SIMULATOR, NUMBER).tolist()
    assert got == [reason for _, reason in IMPRESSIONS]
    for number, (_, reason) in enumerate(IMPRESSIONS):
        assert impression_reasons(table.slice(number, 1), SIMULATOR, NUMBER).tolist() == [reason]


def test_a_day_is_local() -> None:
    """KuaiRand's begins eight hours earlier."""
    start = START - 8 * 3_600_000
    times = [start - 1, start, start + DAY_MS - 1, start + DAY_MS]
    rows = [{"event_time": time, "arrival_time": time} for time in times]
    table = table_of(lambda n: make_impressions(KUAIRAND, "2026-02-03", n), rows)
    assert impression_reasons(table, KUAIRAND, NUMBER).tolist() == [
        "arrival_time is before the day",
        "",
        "",
        "arrival_time is after the day",
    ]


POSTS: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"post_id": -1}, "post_id is negative"),
    ({"post_id": 0}, ""),
    ({"actor_id": -1}, ""),
    ({"actor_id": -2}, "actor_id is below -1"),
    ({"root_actor_id": -2}, "root_actor_id is below -1"),
    ({"created_ms": -1}, ""),
    ({"created_ms": -2}, "created_ms is out of range"),
    ({"created_ms": 0}, "created_ms is out of range"),
    ({"created_ms": 946_684_800_000}, ""),
    ({"created_ms": 946_684_799_999}, "created_ms is out of range"),
    ({"created_ms": 4_102_444_799_999}, ""),
    ({"created_ms": 4_102_444_800_000}, "created_ms is out of range"),
    ({"created_ms": 1_700_000_000}, "created_ms is in seconds, not in milliseconds"),
    ({"created_ms": None}, "created_ms is null"),
    ({"media": 5}, ""),
    ({"media": 6}, "media is not in [-1, 6)"),
    ({"length_s": NAN}, ""),
    ({"length_s": -INF}, "length_s is infinite"),
    ({"length_s": None}, "length_s is null"),
    ({"content": None}, "content is null"),
    ({"content": [0.0] * 49 + [None]}, "content has a null in it"),
    ({"content": [None] * 50}, "content has a null in it"),
    ({"content": [NAN] + [0.0] * 49}, "content is not finite"),
    ({"content": [0.0] * 49 + [INF]}, "content is not finite"),
    ({"content": [0.0] * 50}, ""),
    ({"content": None, "media": 9}, "content is null"),
    ({}, ""),
]


def test_each_limit_of_a_post() -> None:
    table = table_of(lambda n: make_posts(SIMULATOR, n), [case for case, _ in POSTS])
    got = post_reasons(table, SIMULATOR).tolist()
    assert got == [reason for _, reason in POSTS]
    for number, (_, reason) in enumerate(POSTS):
        assert post_reasons(table.slice(number, 1), SIMULATOR).tolist() == [reason]


MEMBERS: list[tuple[dict[str, Any], str]] = [
    ({"member_id": 0}, ""),
    ({"member_id": -1}, "member_id is negative"),
    ({"member_id": None}, "member_id is null"),
    ({"industry": 19}, ""),
    ({"industry": 20}, "industry is not in [-1, 20)"),
    ({"connections": INF}, "connections is infinite"),
    ({"profile": [0.0] * 15 + [NAN]}, "profile is not finite"),
    ({"profile": None}, "profile is null"),
    ({"profile": [None] + [0.0] * 15}, "profile has a null in it"),
]


def test_each_limit_of_a_member() -> None:
    table = table_of(lambda n: make_members(SIMULATOR, n), [case for case, _ in MEMBERS])
    got = member_reasons(table, SIMULATOR).tolist()
    assert got == [reason for _, reason in MEMBERS]
