# SPDX-License-Identifier: Apache-2.0
"""Which stretch of a member's log a sequence holds, and how much of it each impression knew.

It knows times and losses; it knows no features and no shards.

Shape suffixes: N impressions of some members' logs; S sequences; M impressions of the sequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.log.columns import column
from feature_repo.spec import Freshness, Spec, window_start
from serving.history import known_counts

Ints = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int32]
Loss = npt.NDArray[np.int8]
"""What each impression is in training: nothing, a target or auxiliary."""


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


def windows(
    impressions: pa.Table, loss_N: Loss, spec: Spec, freshness: Freshness, *, cap: bool
) -> Windows:
    """The window of each member with an impression to train on; see `build_sequences`."""
    event_N, arrival_N = (column(impressions, name) for name in ("event_time", "arrival_time"))
    timed_N = column(impressions, "timed").astype(np.bool_)
    known_N = np.zeros(impressions.num_rows, np.int32)
    bounds: list[tuple[int, int, int, int]] = []
    for member, begin, end in _logs(impressions):
        own = slice(begin, end)
        marked = np.flatnonzero(loss_N[own])
        if not len(marked):
            continue
        known = known_counts(event_N[own], arrival_N[own], spec, freshness, timed=timed_N[own])
        start, stop = span(marked, known, spec, cap=cap)
        known_N[own] = np.maximum(known - start, 0)
        bounds.append((member, begin + start, begin + stop, start))
    member_S, begin_S, end_S, start_S = np.array(bounds, np.int64).reshape(-1, 4).T
    return Windows(
        member_S=member_S, begin_S=begin_S, end_S=end_S, start_S=start_S, known_N=known_N
    )


def _logs(impressions: pa.Table) -> Iterator[tuple[int, int, int]]:
    """Each member, where its log begins among the impressions, and one after its end."""
    members, begins = np.unique(column(impressions, "member_id"), return_index=True)
    ends = np.append(begins, impressions.num_rows)[1:]
    return zip(members.tolist(), begins.tolist(), ends.tolist(), strict=True)


def span(marked: Ints, known: Counts, spec: Spec, *, cap: bool) -> tuple[int, int]:
    """The window of a log's impressions to train on: index of its first, one after its last.

    Those further back than the most a window can hold are left out, so that a sequence stays near
    twice that; a row that came late knew little, and can reach further back.

    Args:
        marked: int64, indices of the impressions to train on, ascending.
        known: int32, of each impression of the log: how many it knew.
        spec: says how windows slide.
        cap: keep the most that a window can hold.
    """
    stop = int(marked[-1]) + 1
    most = spec.max_impressions + spec.block - 1
    first = int(marked[np.searchsorted(marked, stop - most)])
    start = int(window_start(int(known[first]), spec.max_impressions, spec.block))
    if cap and stop - start > most:
        start = int(window_start(stop, spec.max_impressions, spec.block))
    return start, stop
