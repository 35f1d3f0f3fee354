# SPDX-License-Identifier: Apache-2.0
"""What of a log is trained on, which stretch a sequence holds, and how much of it each row knew.

It knows times and losses; it knows no features and no shards.

Shape suffixes: N impressions of some members' logs; S sequences; M impressions of the sequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.features.window_state import INDEX
from components.log.columns import Ints, column
from feature_repo.spec import Freshness, Spec, window_start
from kernels.loader import AUXILIARY, TARGET
from serving.history import known_counts

Counts = npt.NDArray[np.int32]
Loss = npt.NDArray[np.int8]
"""What each impression is in training: nothing, a target or auxiliary."""

NO_LOSS = 0
"""An impression is only looked at; `TARGET` has context, `AUXILIARY` is trained on without."""

LONG_AGO = -(2**40)
"""A day before every day, for a cold start."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The windows of S sequences over the logs of their members.

    Attributes:
        member_S: int64, whose log.
        begin_S: int64, position of the window's first impression among the N.
        end_S: int64, one after the position of its last.
        start_S: int64, index of the window's first impression in the member's log.
        known_N: int32, how many impressions of its window each one knew.
    """

    member_S: Ints
    begin_S: Ints
    end_S: Ints
    start_S: Ints
    known_N: Counts

    @property
    def offsets(self) -> Ints:
        """int64 `[S + 1]`: where each sequence begins among the M impressions, and M."""
        return np.concatenate([[0], np.cumsum(self.end_S - self.begin_S)])

    def positions_M(self) -> Ints:
        """Where the impressions of all sequences are among the N, in order."""
        offsets = self.offsets
        shift_M = np.repeat(self.begin_S - offsets[:-1], np.diff(offsets))
        return np.arange(offsets[-1]) + shift_M


def mark_loss(impressions: pa.Table, spec: Spec, after_day: str | None, through_day: str) -> Loss:
    """What each impression is in training between the watermark and a day: int8 `[N]`.

    Timed rows are targets by the day they were served. One that was served before the watermark and
    arrived too late for the run that set it (that run's log ended a day after its watermark) is a
    target now, so no impression is lost and none is trained on twice. Untimed rows newer than the
    watermark by arrival are auxiliary. None arrived before the watermark.
    """
    after = LONG_AGO if after_day is None else spec.day_number(after_day)
    through = spec.day_number(through_day)
    served, arrived = (spec.day(column(impressions, n)) for n in ("event_time", "arrival_time"))
    timed = column(impressions, "timed").astype(np.bool_)
    late = (served <= after) & (arrived > after + 1)
    target = timed & (served <= through) & ((served > after) | late)
    auxiliary = ~timed & (arrived > after) & (arrived <= through)
    return np.select([target, auxiliary], [TARGET, AUXILIARY], NO_LOSS).astype(np.int8)


def windows(
    impressions: pa.Table, loss_N: Loss, spec: Spec, freshness: Freshness, *, cap: bool
) -> Windows:
    """The window of each member with an impression to train on; see `build_sequences`."""
    known_N = np.zeros(impressions.num_rows, np.int32)
    bounds: list[tuple[int, int, int, int]] = []
    for log in _logs(impressions, loss_N):
        if not len(log.marked):
            continue
        known = log.known(spec, freshness)
        start, stop = span(log.marked, known, spec, cap=cap, first=log.first)
        assert start >= log.first, "the rows at hand hold the window"
        known_N[log.begin : log.end] = np.maximum(known - start, 0)
        begin = log.begin - log.first
        bounds.append((log.member, begin + start, begin + stop, start))
    member_S, begin_S, end_S, start_S = np.array(bounds, np.int64).reshape(-1, 4).T
    return Windows(
        member_S=member_S, begin_S=begin_S, end_S=end_S, start_S=start_S, known_N=known_N
    )


def short_members(
    impressions: pa.Table, loss_N: Loss, spec: Spec, freshness: Freshness, since_ms: int
) -> Ints:
    """The members whose impressions at hand may not reach back to where their window begins.

    Args:
        impressions: the newest of each member, with their `index` in the member's log; see
            `build_sequences`.
        loss_N: int8, what each impression is (`mark_loss`).
        spec: says how windows slide.
        freshness: how late serving is.
        since_ms: none that arrived before it is to be trained on.
    """
    short = []
    for log in _logs(impressions, loss_N):
        whole = not log.first or log.arrival[0] < since_ms
        if len(log.marked):
            # One that knew none of those at hand seems to know all before them: too early a start.
            known = log.known(spec, freshness)
            start, stop = span(log.marked, known, spec, cap=False, first=log.first)
            whole = start >= log.first and (whole or stop - _most(spec) >= log.first)
        if not whole:
            short.append(log.member)
    return np.array(short, np.int64)


@dataclass(frozen=True, kw_only=True)
class _Log:
    """What is at hand of a member's log, the newest.

    Attributes:
        member: whose.
        begin: position of its first impression among the N.
        first: index of that impression in the whole log.
        event: int64, when each was served, ms.
        arrival: int64, when each arrived, ms.
        timed: of which that is known.
        marked: int64, the places of those to train on.
    """

    member: int
    begin: int
    first: int
    event: Ints
    arrival: Ints
    timed: npt.NDArray[np.bool_]
    marked: Ints

    @property
    def end(self) -> int:
        """One after the position of its last."""
        return self.begin + len(self.event)

    def known(self, spec: Spec, freshness: Freshness) -> Counts:
        """How many of the whole log each knew; those before the first at the least."""
        known = known_counts(self.event, self.arrival, spec, freshness, timed=self.timed)
        return known + np.int32(self.first)


def _logs(impressions: pa.Table, loss_N: Loss) -> Iterator[_Log]:
    """What is at hand of each member's log."""
    event, arrival = (column(impressions, name) for name in ("event_time", "arrival_time"))
    timed = column(impressions, "timed").astype(np.bool_)
    index = column(impressions, INDEX) if INDEX in impressions.column_names else None
    members, begins = np.unique(column(impressions, "member_id"), return_index=True)
    ends = np.append(begins, impressions.num_rows)[1:]
    for member, begin, end in zip(members.tolist(), begins.tolist(), ends.tolist(), strict=True):
        own = slice(begin, end)
        yield _Log(
            member=member,
            begin=begin,
            first=0 if index is None else int(index[begin]),
            event=event[own],
            arrival=arrival[own],
            timed=timed[own],
            marked=np.flatnonzero(loss_N[own]),
        )


def span(marked: Ints, known: Counts, spec: Spec, *, cap: bool, first: int = 0) -> tuple[int, int]:
    """The window of a log's impressions to train on: index of its first, one after its last.

    Those further back than the most a window can hold are left out, so that a sequence stays near
    twice that; a row that came late knew little, and can reach further back.

    Args:
        marked: int64, places of the impressions to train on among those at hand, ascending.
        known: int32, of each impression at hand: how many of the log it knew.
        spec: says how windows slide.
        cap: keep the most that a window can hold.
        first: index in the log of the first impression at hand.
    """
    stop, most = first + int(marked[-1]) + 1, _most(spec)
    oldest = int(marked[np.searchsorted(marked, stop - most - first)])
    start = int(window_start(int(known[oldest]), spec.max_impressions, spec.block))
    if cap and stop - start > most:
        start = int(window_start(stop, spec.max_impressions, spec.block))
    return start, stop


def _most(spec: Spec) -> int:
    """The most impressions that a window holds."""
    return spec.max_impressions + spec.block - 1
