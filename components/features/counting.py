# SPDX-License-Identifier: Apache-2.0
"""Carries each view's counters through a day, a bucket after the other.

It knows which files a day needs: those that arrived since, those of the days that leave a window,
and those of posts that were declared since. A state that does not fit the log, or is not there, is
made anew at once from the whole of it. What is counted is `components.features.counter_state`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.features.counter_state import (
    MOVED,
    Span,
    carry,
    counts_last,
    empty_state,
    packed_rows,
)
from components.features.counters import counter_columns, windows
from components.features.state import Origin
from components.features.unknown_posts import Declared
from components.layout.files import atomic_path
from components.layout.paths import Layout
from components.log.buckets import Dealt, dealt
from components.log.checks import MAX_LATE_DAYS
from components.log.columns import Array
from components.log.impressions import ImpressionLog
from feature_repo.kinds import View
from feature_repo.spec import DAY_MS, Spec

CONTENT = {"actor_id", "root_actor_id"}
"""Keys that an impression has by its post."""

Rows = tuple[pa.Table, Array]
"""Keys and their records."""


@dataclass(frozen=True, kw_only=True)
class Counting:
    """One view's counters as of the end of a day.

    Attributes:
        layout: the run.
        view: a view of counters.
        day: YYYY-MM-DD, ingested.
        since_day: the day before it that has rows; None if it is the first.
        buckets: how many shares of its keys the state has.
        declared: the posts that were declared since then.
    """

    layout: Layout
    view: View
    spec: Spec
    day: str
    since_day: str | None
    buckets: int
    declared: Declared

    def rows(self) -> Iterator[Rows]:
        """The keys that changed and their records, a bucket after the other, keys ascending."""
        wanted = self._origin(self.day)
        kept = [Origin.of_file(self._path(b)) for b in range(self.buckets)]
        later = all(k is not None and k.day > self.day and wanted.leads_to(k) for k in kept)
        done = [k == wanted and not self._posts_moved for k in kept]
        before = self._origin(self.since_day) if self.since_day else None
        ready = [before is None or (k == before and self._carries) for k in kept]
        if later or not all(d or r for d, r in zip(done, ready, strict=True)):
            yield from self._at_once(None if later else wanted)
            return
        with self._arrivals(self._span, self.declared if self._by_content else None) as rows:
            for bucket, finished in enumerate(done):
                begins = before is None and not finished
                state = empty_state(self.view) if begins else pq.read_table(self._path(bucket))
                if not finished:
                    state = carry(state, rows.bucket(bucket), self.view, self._span)
                    self._write(bucket, state, wanted)
                yield packed_rows(state, self.view, self.spec)
        self._remove_others()

    @property
    def _span(self) -> Span:
        since = self.spec.day_end(self.since_day) if self.since_day else None
        return Span(since, self.spec.day_end(self.day))

    @property
    def _by_content(self) -> bool:
        """Whether a key of the view is known by the post alone."""
        return bool(CONTENT & set(self.view.keys))

    @property
    def _posts_moved(self) -> bool:
        return self._by_content and bool(len(self.declared.post_ids))

    @property
    def _carries(self) -> bool:
        """Whether the state of the day before can take in what was declared since."""
        if not self._by_content:
            return True
        return self.declared.complete and not (self._posts_moved and counts_last(self.view))

    def _origin(self, day: str) -> Origin:
        return Origin.of_log(self.layout, day, Origin.key_of(self.spec, self.buckets))

    def _at_once(self, wanted: Origin | None) -> Iterator[Rows]:
        """The day's rows by the whole log; what its states are kept as, None where they are not."""
        since = self._span.since
        with self._arrivals(Span(None, since or 0)) as past, self._arrivals(self._span) as rows:
            for bucket in range(self.buckets):
                state = empty_state(self.view)
                if since is not None:
                    state = carry(state, past.bucket(bucket), self.view, Span(None, since))
                state = carry(state, rows.bucket(bucket), self.view, self._span)
                if wanted is not None:
                    self._write(bucket, state, wanted)
                yield packed_rows(state, self.view, self.spec)
        self._remove_others()

    @contextmanager
    def _arrivals(self, span: Span, declared: Declared | None = None) -> Iterator[Dealt]:
        """What a span brings to the view, by bucket, and the past of posts declared since."""
        days = self._days(span)
        sql, tables = f"{_selected(self.view)} from events where {_counted(self.view, span)}", {}
        if declared is not None and len(declared.post_ids):
            days |= {d for d in self.layout.impression_days() if d >= declared.first_day}
            sql += _moved(self.view, span)
            tables["declared"] = pa.table({"post_id": pa.array(declared.post_ids, pa.int64())})
        with ImpressionLog(self.layout, self.day, days) as log:
            reader = log.batches(sql, **tables)
            with dealt(reader, reader.schema, self.view.keys, self.buckets) as rows:
                yield rows

    def _days(self, span: Span) -> set[str]:
        """The days whose files hold what arrived in a span, or left a window in it."""
        spec, first = self.spec, 0 if span.since is None else _day(self.spec, span.since)
        numbers = {*range(first, _day(spec, span.end))} if span.since is not None else set()
        for days in windows(self.view) if span.since is not None else ():
            left = first - days, _day(spec, span.end) - days + MAX_LATE_DAYS
            numbers |= {*range(*left)}
        there = self.layout.impression_days()
        return {d for d in there if span.since is None or spec.day_number(d) in numbers}

    def _path(self, bucket: int) -> Path:
        return self.layout.state(self.view.name) / f"bucket={bucket:05d}.parquet"

    def _write(self, bucket: int, state: pa.Table, origin: Origin) -> None:
        with atomic_path(self._path(bucket)) as temporary:
            kept = state.replace_schema_metadata(origin.metadata())
            pq.write_table(kept, temporary, compression="zstd")

    def _remove_others(self) -> None:
        """Removes the states of another number of buckets."""
        ours = {self._path(bucket) for bucket in range(self.buckets)}
        for path in self.layout.state(self.view.name).glob("bucket=*.parquet"):
            if path not in ours:
                path.unlink()


def _day(spec: Spec, time_ms: int) -> int:
    return int(spec.day(np.array(time_ms)))


def _selected(view: View, moved: int = 0, content: bool = True) -> str:
    """SQL for the columns of a view's impressions, those by content 0 where it was unknown."""
    names = counter_columns(view)
    known = [f'"{n}"' if content or n not in CONTENT else f'0::bigint as "{n}"' for n in names]
    return f"select {', '.join(known)}, {moved}::tinyint as {MOVED}"


def _counted(view: View, span: Span) -> str:
    """SQL for the impressions that arrived in a span, or left one of the view's windows in it."""
    known = f"arrival_time < {span.end}"
    if span.since is None:
        return known
    ways = [f"arrival_time >= {span.since}"]
    for days in windows(view):
        low, high = (time - days * DAY_MS for time in (span.since, span.end))
        ways.append(f"(timed and event_time >= {low} and event_time < {high})")
    return f"{known} and ({' or '.join(ways)})"


def _moved(view: View, span: Span) -> str:
    """SQL for the past of the posts declared since: taken from no author, and given to theirs."""
    past = f"semi join declared using (post_id) where arrival_time < {span.since}"
    return (
        f" union all {_selected(view, -1, content=False)} from impressions {past}"
        f" union all {_selected(view, 1)} from events {past}"
    )
