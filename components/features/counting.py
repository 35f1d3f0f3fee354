# SPDX-License-Identifier: Apache-2.0
"""Carries each view's counters through a day, as an engine deals its buckets out.

It knows which files a day needs: those that arrived since, those of the days that leave a window,
and those of posts that were declared since. A state that does not fit the log, or is not there, is
made anew at once from the whole of it. What is counted is `components.features.counter_state`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.features.counter_state import carry, counts_last, empty_state, packed_rows
from components.features.counters import counter_columns, windows
from components.features.key_sums import MOVED, Span
from components.features.state import Origin
from components.features.unknown_posts import Declared
from components.layout.files import atomic_path
from components.layout.paths import Layout
from components.log.buckets import bucket_numbers, deal
from components.log.checks import MAX_LATE_DAYS
from components.log.columns import column, packed_bytes
from components.log.engines import Engine, LogRows
from feature_repo.kinds import View
from feature_repo.spec import DAY_MS, Spec

TOGETHER_ROWS = 100_000
"""Of the day's rows and the keys of all buckets: so few are carried together, with one reading."""
CONTENT = {"actor_id", "root_actor_id"}
"""Keys that an impression has by its post."""


@dataclass(frozen=True, kw_only=True)
class Counting:
    """One view's counters as of the end of a day.

    Attributes:
        layout: the run.
        view: a view of counters.
        day: YYYY-MM-DD, ingested.
        since_day: the day before it that has rows; None if it is the first.
        buckets: how many shares of its keys the state has.
        declared: the posts that were declared since then; None where no key is a post's content.
    """

    layout: Layout
    view: View
    spec: Spec
    day: str
    since_day: str | None
    buckets: int
    declared: Declared | None

    def rows(self, engine: Engine) -> Iterator[pa.Table]:
        """The keys that changed and their records, a bucket after the other, keys ascending."""
        wanted = self._origin(self.day)
        kept, keys = zip(*(self._look(b) for b in range(self.buckets)), strict=True)
        later = all(k is not None and k.day > self.day and wanted.leads_to(k) for k in kept)
        done = [k == wanted and not self._posts_moved for k in kept]
        before = self._origin(self.since_day) if self.since_day else None
        ready = [before is None or (k == before and self._carries) for k in kept]
        if later or not all(d or r for d, r in zip(done, ready, strict=True)):
            past = self._arrivals(Span(None, self._span.since or 0))
            sources = past, self._arrivals(self._span)
            step = partial(self._at_once, None if later else wanted)
            yield from engine.by_bucket(sources, self.buckets, step)
        else:
            news = self._arrivals(self._span, self.declared)
            shares = 1 if self._day_rows + sum(keys) <= TOGETHER_ROWS else self.buckets
            step = partial(self._carried, before, wanted, shares)
            for rows in engine.by_bucket([news], shares, step):
                yield from deal(rows, self.view.keys, self.buckets // shares)
        self._remove_others()

    @property
    def _span(self) -> Span:
        since = self.spec.day_end(self.since_day) if self.since_day else None
        return Span(since, self.spec.day_end(self.day))

    @property
    def _day_rows(self) -> int:
        """About how many rows a day brings: what leaves a window is as much as once came in."""
        if self._posts_moved:
            return TOGETHER_ROWS + 1
        return pq.read_metadata(self.layout.impressions_day(self.day)).num_rows

    @property
    def _posts_moved(self) -> bool:
        return self.declared is not None and bool(len(self.declared.post_ids))

    @property
    def _carries(self) -> bool:
        """Whether the state of the day before can take in what was declared since."""
        if self.declared is None:
            return True
        return self.declared.complete and not (self._posts_moved and counts_last(self.view))

    def _origin(self, day: str) -> Origin:
        return Origin.of_log(self.layout, day, Origin.key_of(self.spec, self.buckets))

    def _carried(
        self,
        before: Origin | None,
        wanted: Origin,
        shares: int,
        share: int,
        rows: Sequence[pa.Table],
    ) -> pa.Table:
        """The rows of the day of a bucket, or of all; a state that was carried on before stays."""
        numbers = [share] if shares > 1 else [*range(self.buckets)]
        kept = {number: self._read(number) for number in numbers}
        states = {number: state for number, (_, state) in kept.items()}
        behind = [number for number, (origin, _) in kept.items() if origin != wanted]
        if behind:
            old = [states[number] for number in behind]
            if before is None:
                old = [empty_state(self.view)]
            assert all(before in (None, kept[number][0]) for number in behind), "of the day before"
            news = rows[0] if behind == numbers else self._rows_of(rows[0], behind)
            carried = carry(_ordered(old, self.view.keys), news, self.view, self._span)
            dealt = zip(numbers, deal(carried, self.view.keys, len(numbers)), strict=True)
            states |= {number: state for number, state in dealt if number in behind}
        for number in behind:
            self._write(number, states[number], wanted)
        return self._packed(pa.concat_tables([*states.values()]))

    def _rows_of(self, rows: pa.Table, buckets: Sequence[int]) -> pa.Table:
        number = bucket_numbers(rows, self.view.keys, self.buckets)
        return rows.filter(pa.array(np.isin(number, buckets)))

    def _at_once(self, wanted: Origin | None, bucket: int, rows: Sequence[pa.Table]) -> pa.Table:
        """A bucket's rows of the day by the whole log; its state is kept as what is wanted."""
        since, (past, news), state = self._span.since, rows, empty_state(self.view)
        if since is not None:
            state = carry(state, past, self.view, Span(None, since))
        state = carry(state, news, self.view, self._span)
        if wanted is not None:
            self._write(bucket, state, wanted)
        return self._packed(state)

    def _packed(self, state: pa.Table) -> pa.Table:
        keys, values = packed_rows(state, self.view, self.spec)
        return keys.append_column("packed", packed_bytes(values))

    def _arrivals(self, span: Span, declared: Declared | None = None) -> LogRows:
        """What a span brings to the view, and the past of posts declared since."""
        days = self._days(span)
        sql, tables = f"{_selected(self.view)} from events where {_counted(self.view, span)}", {}
        if declared is not None and len(declared.post_ids):
            days |= {d for d in self.layout.impression_days() if d >= declared.first_day}
            sql += _moved(self.view, span)
            tables["declared"] = pa.table({"post_id": pa.array(declared.post_ids, pa.int64())})
        return LogRows(
            layout=self.layout,
            through_day=self.day,
            days=frozenset(days),
            sql=sql,
            keys=self.view.keys,
            tables=tables,
        )

    def _days(self, span: Span) -> set[str]:
        """The days whose files hold what arrived in a span, or left a window in it."""
        there = self.layout.impression_days()
        if span.since is None:
            return set(there)
        first, end = (_day(self.spec, time_ms) for time_ms in (span.since, span.end))
        numbers = {*range(first, end)}
        for days in windows(self.view):
            numbers |= {*range(first - days, end - days + MAX_LATE_DAYS)}
        return {day for day in there if self.spec.day_number(day) in numbers}

    def _path(self, bucket: int) -> Path:
        return self._folder / f"bucket={bucket:05d}.parquet"

    @cached_property
    def _folder(self) -> Path:
        return self.layout.state(self.view.name)

    def _look(self, bucket: int) -> tuple[Origin | None, int]:
        """What a bucket's state was made from, and how many keys it has."""
        try:
            with pq.ParquetFile(self._path(bucket)) as file:
                return Origin.of_schema(file.schema_arrow), file.metadata.num_rows
        except (pa.ArrowException, OSError):
            return None, 0

    def _read(self, bucket: int) -> tuple[Origin | None, pa.Table]:
        """What a bucket's state was made from, and the state; empty where there is no such file."""
        try:
            with pq.ParquetFile(self._path(bucket)) as file:
                state = file.read().replace_schema_metadata(None)
                return Origin.of_schema(file.schema_arrow), state
        except (pa.ArrowException, OSError):
            return None, empty_state(self.view)

    def _write(self, bucket: int, state: pa.Table, origin: Origin) -> None:
        with atomic_path(self._path(bucket)) as temporary:
            kept = state.replace_schema_metadata(origin.metadata())
            pq.write_table(kept, temporary, compression="zstd")

    def _remove_others(self) -> None:
        """Removes the states of another number of buckets."""
        ours = {self._path(bucket) for bucket in range(self.buckets)}
        for path in self._folder.glob("bucket=*.parquet"):
            if path not in ours:
                path.unlink()


def _ordered(states: Sequence[pa.Table], keys: Sequence[str]) -> pa.Table:
    """The states of some buckets as one, keys ascending."""
    if len(states) == 1:
        return states[0]
    state = pa.concat_tables(states)
    return state.take(pa.array(np.lexsort([column(state, key) for key in reversed(keys)])))


def by_content(view: View) -> bool:
    """Whether a key of a view is known by the post alone."""
    return bool(CONTENT & set(view.keys))


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
