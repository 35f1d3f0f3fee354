# SPDX-License-Identifier: Apache-2.0
"""KuaiRand's two layouts in small: rows as they are published, and as the partial copy has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.spec import DAY_MS

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
    last: dict[Any, int | None] = {1: MIDNIGHT + 5, 2: MIDNIGHT - 3 * DAY_MS, 3: None}
    users = [{**user, "prehist_last_time_ms": last[user["user_id"]]} for user in USERS]
    authors = {item["video_id"]: item["author_id"] for item in ITEMS}
    files = {"users": users, "items": ITEMS}
    files["impressions"] = [{**r, "author_id": authors[r["video_id"]]} for r in EARLY + LATER]
    files["prehistory"] = [{**r, "author_id": authors[r["video_id"]]} for r in BEFORE]
    for name, rows in files.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return folder
