# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation sequences: each member's window with targets, as packed Arrow shards.

`build_sequences` is a pure function of impressions; the daily step and the backtest differ only in
where the context features of the targets come from (`components.features.context`). It never
trains.

A sequence's window starts where the history of its first target started when that was served. The
loss is on the targets alone; everything older is what they may look at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.config import DailyConfig
from components.console import progress
from components.features.context import Context, PointInTimeContext
from components.features.histories import history_batch
from components.features.store import open_store
from components.layout.paths import Layout
from components.log.columns import column, select_list
from components.log.impressions import EventLog, history_order, with_content
from components.training.shards import BATCH_ROWS, ShardCounts, write_shards
from feature_repo.spec import Freshness, Spec, window_start
from serving.history import known_counts

NO_LOSS, TARGET, AUXILIARY = 0, 1, 2
"""A row of a sequence is only looked at, a target with context, or trained on without context."""

CHUNK_ROWS = 400_000
"""Impressions of whole members that become sequences at once; bounds memory."""

Split = Literal["train", "eval"]
Ints = npt.NDArray[np.int64]
Loss = npt.NDArray[np.int8]


def sequences(
    layout: Layout,
    day: str,
    config: DailyConfig,
    split: Split,
    after_day: str | None,
    through_day: str,
) -> ShardCounts:
    """Writes `sequences/<split>-<day>/*.arrow` from the log as it had arrived by the end of `day`.

    Args:
        layout: the run.
        day: the as-of day D.
        config: spec, freshness and store.
        split: "train" or "eval"; where the shards go.
        after_day: the watermark; None is a cold start.
        through_day: targets are impressions served after the watermark and through this day.

    Raises:
        ValueError: nothing is ingested through the day, or the features were not built.
    """
    spec = config.spec
    for view in spec.views:
        if not layout.feature_day(view.name, day).is_file():
            raise ValueError(f"view {view.name} has no rows of {day}; run features first")
    context = PointInTimeContext(open_store(layout, config), spec)
    cut = Cut(
        mark=lambda events: [mark_loss(events, spec, after_day, through_day)],
        freshness=config.freshness,
        cap=after_day is None,
        as_of_ms=spec.day_end(through_day),
        members=_members_with_targets(spec, after_day, through_day),
    )
    with EventLog(layout, day) as log:
        return write_sequences(log, cut, context, layout.sequences(split, day))


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What of a log becomes sequences.

    Attributes:
        mark: the losses, int8 `[n]` each, to build sequences of some members' impressions with, one
            after the other (`mark_loss`).
        freshness: how late serving is.
        cap: see `build_sequences`.
        as_of_ms: everything that is trained on was served before it.
        members: SQL for the members (`member_id`) and how many `rows` they have, in order.
    """

    mark: Callable[[pa.Table], Iterable[Loss]]
    freshness: Freshness
    cap: bool
    as_of_ms: int
    members: str = "select member_id, count(*) as rows from impressions group by 1 order by 1"


def write_sequences(log: EventLog, cut: Cut, context: Context, folder: Path) -> ShardCounts:
    """Writes the sequences of a log to a folder of shards, some members at a time."""
    spec = context.spec
    metadata = {
        "spec_hash": spec.hash,
        "freshness": cut.freshness,
        "as_of_ms": str(cut.as_of_ms),
    }
    members = log.query(cut.members)
    ids, rows = column(members, "member_id"), column(members, "rows")
    with (
        write_shards(folder, metadata) as shards,
        progress(f"{folder.name} sequences", len(ids)) as advance,
    ):
        for chunk in log.member_chunks(ids, rows, CHUNK_ROWS):
            events = history_order(log.query(_all_rows(spec), chunk=chunk))
            events = with_content(events, log.posts, spec)
            for loss in cut.mark(events):
                for batch in build_sequences(
                    events, loss, context, spec, cut.freshness, cap=cut.cap
                ):
                    shards.write(batch)
            advance(chunk.num_rows)
    return shards.counts


def mark_loss(
    events: pa.Table, spec: Spec, after_day: str | None, through_day: str
) -> npt.NDArray[np.int8]:
    """What each impression is in training between the watermark and a day: int8 `[n]`.

    Timed rows are targets by the day they were served. One that was served before the watermark and
    arrived too late for the run that set it (that run's log ended a day after its watermark) is a
    target now, so no impression is lost and none is trained on twice. Untimed rows newer than the
    watermark by arrival are auxiliary.
    """
    after = -(2**40) if after_day is None else spec.day_number(after_day)
    through = spec.day_number(through_day)
    served, arrived = (spec.day(column(events, n)) for n in ("event_time", "arrival_time"))
    timed = column(events, "timed").astype(np.bool_)
    late = (served <= after) & (arrived > after + 1)
    target = timed & (served <= through) & ((served > after) | late)
    auxiliary = ~timed & (arrived > after) & (arrived <= through)
    return np.select([target, auxiliary], [TARGET, AUXILIARY], NO_LOSS).astype(np.int8)


def build_sequences(
    events: pa.Table,
    loss: npt.NDArray[np.int8],
    context: Context,
    spec: Spec,
    freshness: Freshness,
    *,
    cap: bool = True,
) -> Iterator[pa.RecordBatch]:
    """One row per member with a target, as the shards hold them, at most 256 rows a batch.

    Args:
        events: impressions of any members with their content (`with_content`), members ascending,
            each member's whole log in history order (`history_order`).
        loss: int8 `[n]`, what each impression is (`mark_loss`).
        context: gives the context features of the targets.
        spec: names everything.
        freshness: how late serving is; decides what each impression knew.
        cap: keep at most T + B - 1 impressions of a member (a cold start, where the first target
            is the first impression); without it a sequence holds the window of its first target.
    """
    windows = _windows(events, loss, spec, freshness, cap=cap)
    keep = windows.rows()
    events, loss, known = events.take(pa.array(keep)), loss[keep], windows.known[keep]
    targets = np.flatnonzero(loss == TARGET)
    matrix = context.matrix(events.take(pa.array(targets)))
    batch = history_batch(events, spec, context.views(events) if spec.fused_early else None)
    for first in range(0, len(windows.first), BATCH_ROWS):
        yield _rows(windows.part(first, BATCH_ROWS), batch, loss, known, matrix, targets)


@dataclass(frozen=True)
class _Windows:
    """S sequences: where each begins and ends among the events, and in which member's log.

    Attributes:
        first: int64 `[S]`, position of the window's first impression among the events.
        stop: int64 `[S]`, one after the last target.
        start: int64 `[S]`, index of the window's first impression in the member's log.
        member: int64 `[S]`.
        known: int32 `[n]`, of each event: how many of the window it knew.
        offset: rows of the sequences before the first one here.
    """

    first: Ints
    stop: Ints
    start: Ints
    member: Ints
    known: npt.NDArray[np.int32]
    offset: int = 0

    def rows(self) -> Ints:
        """The positions of all sequences' impressions, in order."""
        lengths = self.stop - self.first
        shift = np.repeat(self.first - (np.cumsum(lengths) - lengths), lengths)
        return np.arange(lengths.sum()) + shift

    def part(self, start: int, count: int) -> _Windows:
        """Some of the sequences; `offset` says where their rows begin among all rows."""
        chosen = slice(start, start + count)
        before = int((self.stop - self.first)[:start].sum())
        return _Windows(
            self.first[chosen],
            self.stop[chosen],
            self.start[chosen],
            self.member[chosen],
            self.known,
            before,
        )


def _windows(
    events: pa.Table, loss: npt.NDArray[np.int8], spec: Spec, freshness: Freshness, *, cap: bool
) -> _Windows:
    members, begins = np.unique(column(events, "member_id"), return_index=True)
    ends = np.append(begins, events.num_rows)[1:]
    times = [column(events, n) for n in ("event_time", "arrival_time", "timed")]
    known = np.zeros(events.num_rows, np.int32)
    found: list[tuple[int, int, int, int]] = []
    for member, begin, end in zip(members, begins, ends, strict=True):
        here = slice(begin, end)
        event, arrival, timed = (t[here] for t in times)
        known[here] = known_counts(event, arrival, spec, freshness, timed=timed.astype(np.bool_))
        marked = np.flatnonzero(loss[here])
        if not len(marked):
            continue
        start, stop = _span(marked, known[here], spec, cap=cap)
        known[here] = np.maximum(known[here] - start, 0)
        found.append((begin + start, begin + stop, start, int(member)))
    columns = np.array(found, np.int64).reshape(-1, 4).T
    return _Windows(columns[0], columns[1], columns[2], columns[3], known)


def _span(marked: Ints, known: npt.NDArray[np.int32], spec: Spec, *, cap: bool) -> tuple[int, int]:
    """The window of a member's targets at indices `marked` of the log: first index, one after last.

    Targets further back than the most a window can hold are left out, so that a sequence stays near
    twice that; a row that came late knew little, and can reach further back.
    """
    stop = int(marked[-1]) + 1
    most = spec.max_impressions + spec.block - 1
    first = int(marked[np.searchsorted(marked, stop - most)])
    start = int(window_start(int(known[first]), spec.max_impressions, spec.block))
    if cap and stop - start > most:
        start = int(window_start(stop, spec.max_impressions, spec.block))
    return start, stop


def _rows(
    windows: _Windows,
    batch: pa.RecordBatch,
    loss: npt.NDArray[np.int8],
    known: npt.NDArray[np.int32],
    matrix: npt.NDArray[np.float32],
    targets: Ints,
) -> pa.RecordBatch:
    """The shard rows of some sequences."""
    lengths = windows.stop - windows.first
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    low, high = windows.offset, windows.offset + int(offsets[-1])
    here = slice(low, high)
    columns: dict[str, pa.Array] = {
        "member_id": pa.array(windows.member, pa.int64()),
        "start": pa.array(windows.start, pa.int64()),
    }
    for name, values in zip(batch.schema.names, batch.columns, strict=True):
        columns[name] = _lists(offsets, values.slice(low, high - low))
    columns["known"] = _lists(offsets, pa.array(known[here], pa.int32()))
    columns["loss"] = _lists(offsets, pa.array(loss[here], pa.int8()))
    begin, end = np.searchsorted(targets, [low, high])
    counted = np.searchsorted(targets[begin:end] - low, offsets) * matrix.shape[1]
    columns["context"] = _lists(counted, pa.array(matrix[begin:end].reshape(-1), pa.float32()))
    return pa.RecordBatch.from_pydict(columns)


def _lists(offsets: Ints, values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def _members_with_targets(spec: Spec, after_day: str | None, through_day: str) -> str:
    """SQL for the members with anything newer than the watermark, and how many rows they have."""
    through = spec.day_end(through_day)
    news = f"(timed and event_time < {through}) or (not timed and arrival_time < {through})"
    if after_day is not None:
        news = f"({news}) and arrival_time >= {spec.day_end(after_day)}"
    return (
        f"select member_id, count(*) as rows from impressions "
        f"group by member_id having bool_or({news}) order by member_id"
    )


def _all_rows(spec: Spec) -> str:
    names = select_list((*spec.event_schema.names, "session_id"))
    return f"select {names} from impressions semi join chunk using (member_id)"
