# SPDX-License-Identifier: Apache-2.0
"""How KuaiRand's columns become the feed's: the queries of the import, and its code lists.

The tables `log`, `prehistory`, `users` and `items` hold the published columns named below. This
module knows nothing of files.
"""

from __future__ import annotations

from feature_repo.values import SANE_MS

UTC_OFFSET_MS = 8 * 3_600_000
SANE_TIME = f"time_ms >= {SANE_MS[0]} AND time_ms < {SANE_MS[1]}"
SKIP_MS = 3_000

LOG_COLUMNS = {
    "user_id": "BIGINT",
    "video_id": "BIGINT",
    "time_ms": "BIGINT",
    "is_click": "BIGINT",
    "is_like": "BIGINT",
    "is_comment": "BIGINT",
    "is_forward": "BIGINT",
    "long_view": "BIGINT",
    "play_time_ms": "BIGINT",
    "tab": "BIGINT",
}
PREHISTORY_COLUMNS = {
    "user_id": "BIGINT",
    "pos": "BIGINT",
    "video_id": "BIGINT",
    "long_view": "BIGINT",
    "is_like": "BIGINT",
}
USER_COLUMNS = {
    "user_id": "BIGINT",
    "user_active_degree": "VARCHAR",
    "is_live_streamer": "BIGINT",
    "is_video_author": "BIGINT",
    "follow_user_num": "BIGINT",
    "fans_user_num": "BIGINT",
    "friend_user_num": "BIGINT",
    "register_days": "BIGINT",
}
LAST_TIME_COLUMNS = {"prehist_last_time_ms": "BIGINT"}
ITEM_COLUMNS = {
    "video_id": "BIGINT",
    "author_id": "BIGINT",
    "upload_dt": "VARCHAR",
    "upload_type": "VARCHAR",
    "video_duration": "DOUBLE",
    "music_type": "BIGINT",
    "tag": "VARCHAR",
}
NOT_NULL = {
    "log": ("user_id", "video_id", "time_ms"),
    "prehistory": ("user_id", "video_id", "pos"),
    "users": ("user_id",),
    "items": ("video_id", "author_id"),
}
"""Columns without which a row means nothing."""

ACTIVE_DEGREES = (
    *("full_active", "high_active", "middle_active", "low_active", "single_low_active"),
    *("2_14_day_new", "day_new", "30day_retention"),
)
UPLOAD_TYPES = (
    *("LongImport", "Web", "ShortImport", "Kmovie", "LongPicture", "PictureSet", "LongCamera"),
    *("ShortCamera", "ShareFromOtherApp", "FollowShoot", "AiCutVideo", "LipsSync", "PhotoCopy"),
)
"""The codes are the places in these lists: append only, a model remembers them."""


def read_column(name: str, kind: str) -> str:
    """The expression that reads a published column, which a CSV file may write as `9` or `9.0`."""
    if kind == "VARCHAR":
        return f"CAST({name} AS VARCHAR) AS {name}"
    number = f"nullif(CAST({name} AS DOUBLE), 'nan'::DOUBLE)"
    return f"CAST({number} AS {kind}) AS {name}"


def code(value: str, names: tuple[str, ...]) -> str:
    """The place of a text in a list, -1 where it is not in it."""
    listed = ", ".join(f"'{name}'" for name in names)
    return f"CAST(coalesce(list_position([{listed}], {value}), 0) - 1 AS INTEGER)"


def in_range(value: str, cardinality: int) -> str:
    """A code in [0, cardinality), -1 for anything else."""
    fits = f"{value} >= 0 AND {value} < {cardinality}"
    return f"CAST(CASE WHEN {fits} THEN {value} ELSE -1 END AS INTEGER)"


def _flag(value: str) -> str:
    """A flag, -1 where it is not said; one that no TINYINT holds stays one that ingest refuses."""
    return f"CAST(greatest(-128, least(127, coalesce({value}, -1))) AS TINYINT)"


def _count(value: str) -> str:
    return f"CAST(CASE WHEN {value} >= 0 THEN {value} ELSE 'nan'::FLOAT END AS FLOAT)"


def _tag(place: int, cardinality: int) -> str:
    return in_range(f"TRY_CAST(split_part(tag, ',', {place}) AS INTEGER)", cardinality)


def timed(tabs: int) -> str:
    """The log's rows as impressions, with the local `day` they arrived on.

    What ingest is to refuse is brought to it: a row whose time is none is put with the first day's,
    a play time that is none is -1.
    """
    return f"""
SELECT user_id AS member_id, video_id AS post_id, time_ms AS event_time, time_ms AS arrival_time,
    true AS timed, NULL::BIGINT AS request_id, (-1)::SMALLINT AS position,
    CAST(CASE WHEN play_time_ms NOT BETWEEN 0 AND 2147483647 THEN -1 ELSE play_time_ms END
        AS INTEGER) AS dwell_ms,
    {in_range("tab", tabs)} AS tab,
    CAST(CASE WHEN {SANE_TIME} THEN (time_ms + {UTC_OFFSET_MS}) // 3600000 % 24 ELSE -1 END
        AS INTEGER) AS hour,
    {_flag("is_click")} AS click,
    {_flag(f"(is_click = 0 AND play_time_ms < {SKIP_MS})::TINYINT")} AS skip,
    {_flag("long_view")} AS long_dwell, {_flag("is_like")} AS "like",
    {_flag("is_comment")} AS comment, {_flag("is_forward")} AS share,
    (CASE WHEN {SANE_TIME} THEN time_ms ELSE (SELECT min(time_ms) FROM log WHERE {SANE_TIME}) END
        + {UTC_OFFSET_MS}) // 86400000 AS day
FROM log"""


def untimed(day: int) -> str:
    """The prehistory as impressions of unknown time, all in the file of one day, in known order.

    A member's last one is put at their last known time, but before their first timed impression and
    before the day's end; the others a second apart before it.
    """
    end = (day + 1) * 86_400_000 - UTC_OFFSET_MS
    return f"""
WITH last AS ({last_times(end)})
SELECT user_id AS member_id, video_id AS post_id,
    least(wanted, first_ms - 1) - (length - 1 - pos) * 1000 AS event_time,
    event_time AS arrival_time, false AS timed, NULL::BIGINT AS request_id,
    (-1)::SMALLINT AS position, NULL::INTEGER AS dwell_ms, (-1)::INTEGER AS tab,
    (-1)::INTEGER AS hour, (-1)::TINYINT AS click, (-1)::TINYINT AS skip,
    {_flag("long_view")} AS long_dwell, {_flag("is_like")} AS "like",
    (-1)::TINYINT AS comment, (-1)::TINYINT AS share, {day}::BIGINT AS day
FROM prehistory JOIN last USING (user_id)"""


def last_times(end_ms: int) -> str:
    """Per member of the prehistory: its length, the wanted time of its end, the first timed row."""
    return f"""
SELECT user_id, length, coalesce(first_ms, {end_ms}) AS first_ms,
    least(coalesce(prehist_last_time_ms, {end_ms} - 2 * 86400000), {end_ms} - 1) AS wanted
FROM (SELECT user_id, max(pos) + 1 AS length FROM prehistory GROUP BY user_id)
LEFT JOIN (SELECT user_id, min(prehist_last_time_ms) AS prehist_last_time_ms FROM users
    GROUP BY user_id) USING (user_id)
LEFT JOIN (SELECT user_id, min(time_ms) AS first_ms FROM log WHERE {SANE_TIME} GROUP BY user_id)
    USING (user_id)"""


def posts(cardinality: dict[str, int], log_has_author: bool) -> str:
    """Videos as posts, in the order of their ids; a video only the log knows has no content."""
    known = f"""
SELECT video_id AS post_id, author_id AS actor_id, author_id AS root_actor_id,
    coalesce(epoch_ms(TRY_CAST(upload_dt AS TIMESTAMP)) - {UTC_OFFSET_MS}, -1) AS created_ms,
    {_tag(1, cardinality["tag"])} AS tag, {_tag(2, cardinality["second_tag"])} AS second_tag,
    {code("upload_type", UPLOAD_TYPES)} AS upload_type,
    {in_range("music_type", cardinality["music_type"])} AS music_type,
    CAST(coalesce(video_duration / 1000, 'nan'::DOUBLE) AS FLOAT) AS duration_s FROM items"""
    if not log_has_author:
        return f"{known} ORDER BY ALL"
    return f"""{known} UNION ALL
SELECT video_id, min(author_id), min(author_id), -1, -1, -1, -1, -1, 'nan'::FLOAT
FROM log WHERE author_id IS NOT NULL AND video_id NOT IN (SELECT video_id FROM items)
GROUP BY video_id ORDER BY ALL"""


MEMBERS = f"""
SELECT user_id AS member_id, {code("user_active_degree", ACTIVE_DEGREES)} AS active_degree,
    {in_range("is_live_streamer", 2)} AS is_live_streamer,
    {in_range("is_video_author", 2)} AS is_video_author, {_count("follow_user_num")} AS follows,
    {_count("fans_user_num")} AS fans, {_count("friend_user_num")} AS friends,
    {_count("register_days")} AS register_days
FROM users ORDER BY ALL"""
