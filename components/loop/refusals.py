# SPDX-License-Identifier: Apache-2.0
"""What a day's run refuses before it computes anything: days and logs that it cannot be for.

It knows which days the log has; it reads no row.
"""

from __future__ import annotations

from collections.abc import Sequence

from components.layout.paths import Layout


def refuse_day_without_log(layout: Layout, day: str) -> None:
    """ValueError where a source wrote no log of the day."""
    raw = layout.raw_days()
    if day not in raw:
        have = f"have {raw[0]} to {raw[-1]}" if raw else "there is no log yet"
        raise ValueError(f"no log of {day} under {layout.root / 'raw'}: {have}")


def refuse_first_day(days: Sequence[str], day: str) -> None:
    """ValueError where no earlier day could be trained on."""
    if day <= days[0]:
        raise ValueError(
            f"{day} is the first day of the log: a run ranks its day with a model that was trained "
            "on the days before; choose a later day"
        )


def refuse_other_log(layout: Layout) -> None:
    """ValueError where two logs would mix in one root: later steps read all ingested days."""
    gone = sorted(set(layout.impression_days()) - set(layout.raw_days()))
    if gone:
        raise ValueError(
            f"{layout.root} holds impressions of {gone[0]} that its log no longer has: "
            "a log was replaced by another; use a new root"
        )
