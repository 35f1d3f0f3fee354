# SPDX-License-Identifier: Apache-2.0
"""The newest impressions of members from the files of their windows, and of what those dropped.

Who looks at the last days of some members need not read their whole logs. It knows no target, and
does not say whether the impressions reach far enough back: each has its index in the member's log.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from components.config import DailyConfig
from components.features.state import Origin
from components.features.window_state import (
    INDEX,
    can_carry,
    impression_counts,
    window_rows,
    window_rows_schema,
)
from components.layout.paths import Layout
from components.log.buckets import bucket_numbers
from components.log.columns import Ints, column
from components.log.impressions import rows_of
from feature_repo.spec import window_start


class WindowFiles:
    """The windows of members at the end of a day.

    Args:
        layout: the run.
        day: YYYY-MM-DD, ingested.
        config: names the spec, and says how many buckets there are.
    """

    def __init__(self, layout: Layout, day: str, config: DailyConfig) -> None:
        self._layout, self._spec, self._buckets = layout, config.spec, config.buckets
        self._origin = Origin.of_log(layout, day, Origin.key_of(config.spec, config.buckets))

    def fit(self) -> bool:
        """Whether they hold what had arrived by the end of the day, no more and no less."""
        paths = (self._layout.history_bucket(bucket) for bucket in range(self._buckets))
        return can_carry(self._spec) and all(Origin.of_file(p) == self._origin for p in paths)

    def counts(self, members: Ints) -> Ints:
        """How many impressions each member has had; the members ascend, and each has a window."""
        ids, numbers = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for bucket, own in self._by_bucket(members):
            for values in rows_of(self._layout.history_bucket(bucket), "member_id", own):
                ids.append(column(values, "member_id"))
                numbers.append(impression_counts(values))
        order = np.argsort(np.concatenate(ids))
        assert np.array_equal(np.concatenate(ids)[order], members), "every member has a window"
        return np.concatenate(numbers)[order]

    def rows(self, members: Ints, dropped_after: str) -> pa.Table:
        """The members' impressions from one on, by member and index, `window_rows_schema(spec)`.

        Args:
            members: ascending.
            dropped_after: what windows dropped on a later day is there as well.
        """
        parts = [window_rows_schema(self._spec).empty_table()]
        for bucket, own in self._by_bucket(members):
            for values in rows_of(self._layout.history_bucket(bucket), "member_id", own):
                parts.append(window_rows(values, self._spec))
            for day, path in self._dropped[bucket]:
                parts += rows_of(path, "member_id", own) if day > dropped_after else ()
        return unbroken(pa.concat_tables(parts))

    def rows_before(self, members: Ints, time_ms: int) -> tuple[pa.Table, Ints]:
        """The members' windows as of a time, and those of whom more of the log is needed for it.

        Args:
            members: ascending.
            time_ms: what arrived before it was known.

        Returns:
            `window_rows_schema(spec)` by member and index, from where each window began or before
            it; and the members whose rows at hand do not reach so far back, who have none there.
        """
        rows = self.rows(members, "")
        member, index = column(rows, "member_id"), column(rows, INDEX)
        own, first, rows_each = np.unique(member, return_index=True, return_counts=True)
        known = column(rows, "arrival_time") < time_ms
        # Those known are the first: a member's impressions are in the order of arrival.
        count = index[first] + np.add.reduceat(known, first, dtype=np.int64) if len(own) else first
        start = window_start(count, self._spec.max_impressions, self._spec.block)
        whole = index[first] <= start
        return rows.filter(pa.array(known & np.repeat(whole, rows_each))), own[~whole]

    @cached_property
    def _dropped(self) -> list[list[tuple[str, Path]]]:
        """The files of what each bucket's windows dropped, with their days: those of this log."""
        files: list[list[tuple[str, Path]]] = []
        folders = sorted(self._layout.state("dropped").glob("day=*"))
        for bucket in range(self._buckets):
            paths = [(f.name[4:], self._layout.dropped_bucket(f.name[4:], bucket)) for f in folders]
            files.append([(day, path) for day, path in paths if self._fits(path)])
        return files

    def _fits(self, path: Path) -> bool:
        origin = Origin.of_file(path)
        return origin is not None and origin.leads_to(self._origin)

    def _by_bucket(self, members: Ints) -> Iterator[tuple[int, Ints]]:
        table = pa.table({"member_id": members})
        number = bucket_numbers(table, ("member_id",), self._buckets)
        for bucket in np.unique(number).tolist():
            yield bucket, members[number == bucket]


def unbroken(rows: pa.Table) -> pa.Table:
    """Of each member the rows that lead to the last one without a gap, by member and index."""
    rows = rows.take(pa.array(np.lexsort([column(rows, INDEX), column(rows, "member_id")])))
    member, index = column(rows, "member_id"), column(rows, INDEX)
    again = (np.diff(member, prepend=-1) == 0) & (np.diff(index, prepend=-1) == 0)
    member, index, place = member[~again], index[~again], np.flatnonzero(~again)
    last = np.searchsorted(member, member, side="right") - 1
    whole = index[last] - index == last - np.arange(len(last))
    return rows.take(pa.array(place[whole]))
