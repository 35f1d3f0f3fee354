# SPDX-License-Identifier: Apache-2.0
"""Which impressions of a log are trained on, which stretch a sequence holds, and where to read it.

`bounds` knows times and losses; `member_logs` knows the run's files.
"""

from __future__ import annotations

from components.training.windows.bounds import (
    NO_LOSS,
    Counts,
    Loss,
    Windows,
    mark_loss,
    short_members,
    span,
    windows,
)
from components.training.windows.member_logs import (
    MemberLogs,
    RecentLogs,
    WholeLogs,
    logs_of_a_day,
    members_with_news,
)

__all__ = [
    "NO_LOSS",
    "Counts",
    "Loss",
    "MemberLogs",
    "RecentLogs",
    "WholeLogs",
    "Windows",
    "logs_of_a_day",
    "mark_loss",
    "members_with_news",
    "short_members",
    "span",
    "windows",
]
