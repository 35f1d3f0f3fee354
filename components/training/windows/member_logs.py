# SPDX-License-Identifier: Apache-2.0
"""The impressions of members that become sequences: from the whole log, or from windows.

Both give the same sequences. A warm day's are in the members' windows, in what those dropped of
late and in the day's rows; only a member whose rows there do not reach far enough back is looked
for in the whole log. It knows no context and no shards.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa

from components.config import DailyConfig
from components.features.window_files import WindowFiles, unbroken
from components.features.window_state import logged_rows
from components.layout.paths import Layout
from components.log.columns import Ints, column, select_list
from components.log.impressions import ImpressionLog, Posts, history_order, with_content
from components.training.windows.bounds import mark_loss, short_members
from feature_repo.spec import Spec

ALL = "select member_id, count(*) as rows from impressions group by 1 order by 1"


class MemberLogs(Protocol):
    """The logs of the members that may have something to train on."""

    def members(self) -> pa.Table:
        """Each `member_id`, ascending, and how many `rows` the log has of it."""

    def impressions(self, members: Ints) -> pa.Table:
        """The members' impressions with their content, by member in history order.

        Those of a log that is not whole are its newest, and have their `index` in it.
        """


@dataclass(frozen=True, kw_only=True)
class WholeLogs:
    """Every impression of a member through a day.

    Attributes:
        layout: the run.
        day: the last day of the log.
        spec: names the columns.
        wanted: SQL for the members, as `members` gives them.
    """

    layout: Layout
    day: str
    spec: Spec
    wanted: str = ALL

    def members(self) -> pa.Table:
        """See `MemberLogs`."""
        with ImpressionLog(self.layout, self.day) as log:
            return log.query(self.wanted)

    def impressions(self, members: Ints) -> pa.Table:
        """See `MemberLogs`."""
        rows = self.logged(members)
        return with_content(rows, self._posts.of(column(rows, "post_id")), self.spec)

    def logged(self, members: Ints) -> pa.Table:
        """The impressions as they were logged."""
        names = select_list((*self.spec.impression_schema.names, "session_id"))
        query = f"select {names} from impressions semi join chunk using (member_id)"
        with ImpressionLog(self.layout, self.day) as log:
            return history_order(log.query(query, chunk=pa.table({"member_id": members})))

    @cached_property
    def _posts(self) -> Posts:
        return Posts(self.layout)


@dataclass(frozen=True, kw_only=True)
class RecentLogs:
    """Of a member's impressions those that a warm start looks at.

    Attributes:
        layout: the run.
        day: the last day of the log.
        config: spec, freshness and buckets.
        after_day: the watermark.
        through_day: targets were served through it.
    """

    layout: Layout
    day: str
    config: DailyConfig
    after_day: str
    through_day: str

    def fit(self) -> bool:
        """Whether the windows are those of the day."""
        return self._files.fit()

    def members(self) -> pa.Table:
        """See `MemberLogs`."""
        days = {day for day in self.layout.impression_days() if day > self.after_day}
        wanted = members_with_news(self.config.spec, self.after_day, self.through_day)
        with ImpressionLog(self.layout, self.day, days) as log:
            members = log.query(wanted).select(["member_id"])
        counts = self._files.counts(column(members, "member_id"))
        return members.append_column("rows", pa.array(counts))

    def impressions(self, members: Ints) -> pa.Table:
        """See `MemberLogs`."""
        rows = self._files.rows(members, self.after_day)
        for longer in (self._with_all_dropped, self._from_log):
            short = self._short(rows)
            if len(short):
                others = rows.filter(pa.array(~np.isin(column(rows, "member_id"), short)))
                rows = unbroken(pa.concat_tables([others, longer(short)]))
        return with_content(rows, self._posts.of(column(rows, "post_id")), self.config.spec)

    def _with_all_dropped(self, members: Ints) -> pa.Table:
        return self._files.rows(members, "")

    def _from_log(self, members: Ints) -> pa.Table:
        spec = self.config.spec
        rows = WholeLogs(layout=self.layout, day=self.day, spec=spec).logged(members)
        member = column(rows, "member_id")
        index = np.arange(len(member)) - np.searchsorted(member, member)
        return logged_rows(rows, index, spec)

    def _short(self, rows: pa.Table) -> Ints:
        """Those of whom more is needed than the rows at hand."""
        spec, freshness = self.config.spec, self.config.freshness
        loss = mark_loss(rows, spec, self.after_day, self.through_day)
        return short_members(rows, loss, spec, freshness, spec.day_end(self.after_day))

    @cached_property
    def _files(self) -> WindowFiles:
        return WindowFiles(self.layout, self.day, self.config)

    @cached_property
    def _posts(self) -> Posts:
        return Posts(self.layout)


def logs_of_a_day(
    layout: Layout, day: str, config: DailyConfig, after_day: str | None, through_day: str
) -> MemberLogs:
    """The logs of the members with anything between the watermark and a day; see `sequences`."""
    if after_day is not None:
        recent = RecentLogs(
            layout=layout, day=day, config=config, after_day=after_day, through_day=through_day
        )
        if recent.fit():
            return recent
    wanted = members_with_news(config.spec, after_day, through_day)
    return WholeLogs(layout=layout, day=day, spec=config.spec, wanted=wanted)


def members_with_news(spec: Spec, after_day: str | None, through_day: str) -> str:
    """SQL for the members with anything newer than the watermark, and how many rows they have."""
    through = spec.day_end(through_day)
    news = f"(timed and event_time < {through}) or (not timed and arrival_time < {through})"
    if after_day is not None:
        news = f"({news}) and arrival_time >= {spec.day_end(after_day)}"
    return (
        f"select member_id, count(*) as rows from impressions "
        f"group by member_id having bool_or({news}) order by member_id"
    )
