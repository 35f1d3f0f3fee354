# SPDX-License-Identifier: Apache-2.0
"""What a day's impressions add to the keys they have, and where those keys are in a state.

It knows keys, times and counters; it knows no state's columns and no file.

Shape suffixes: N impressions, K keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.features.counters import observed, windows
from components.log.columns import Array, Ints, Mask, column
from feature_repo.kinds import Counter, View
from feature_repo.spec import DAY_MS

MOVED = "moved"
"""Of an impression: 0, or -1 and 1 where its post was declared since, for the keys that it had and
has. What is not there is 0."""
NONE, KNOWN, HIT = 0, 1, 2
"""Flags of the last impressions: says nothing (or there was none), is known, is a hit."""

Flags = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Span:
    """The time a step covers, in ms: what arrived in [since, end); since None is from the start."""

    since: int | None
    end: int


def key_codes(rows: pa.Table, keys: Sequence[str]) -> Array:
    """One sortable value a row, in the order of its keys."""
    values = [column(rows, key) for key in keys]
    if len(values) == 1:
        return values[0]
    # Big-endian with the sign flipped: bytes sort as the numbers do.
    flipped = np.empty((rows.num_rows, len(keys)), ">u8")
    for place, value in enumerate(values):
        flipped[:, place] = value.astype(np.int64).view(np.uint64) ^ np.uint64(1 << 63)
    return flipped.view(f"S{8 * len(keys)}").reshape(-1)


@dataclass(frozen=True)
class Merge:
    """Where the keys of a day are in a state.

    Attributes:
        place_K: where each key is, or would have to be.
        known_K: whether it is there.
    """

    place_K: Ints
    known_K: Mask

    def before(self, old: Array) -> Array:
        """What each key of the day had, zero for a new one, `[K, ...]`."""
        values = np.zeros((len(self.place_K), *old.shape[1:]), old.dtype)
        values[self.known_K] = old[self.place_K[self.known_K]]
        return values

    def put(self, old: Array, new_K: Array) -> Array:
        """The state's values with those of the day's keys."""
        size = len(old) + len(new_K) - int(self.known_K.sum())
        values = np.empty((size, *old.shape[1:]), old.dtype)
        stays = np.ones(size, np.bool_)
        stays[self._merged_K[~self.known_K]] = False
        values[stays] = old
        values[self._merged_K] = new_K
        return values

    @cached_property
    def _merged_K(self) -> Ints:
        """Where each key of the day is in the state with all of them."""
        fresh = (~self.known_K).astype(np.int64)
        return self.place_K + np.cumsum(fresh) - fresh


class DaySums:
    """What the impressions of a span add to the keys they have.

    Args:
        rows: N impressions that the view may count.
        view: a view of counters.
        span: the time they are added for.
    """

    def __init__(self, rows: pa.Table, view: View, span: Span) -> None:
        self._rows, self._view, self._span = rows, view, span
        codes = key_codes(rows, view.keys)
        self.keys, self._first, self._key_N = np.unique(
            codes, return_index=True, return_inverse=True
        )
        self._columns = {name: column(rows, name) for name in rows.column_names}
        arrival_N, since = self._columns["arrival_time"], span.since
        self._past_N = np.zeros(len(codes), np.bool_) if since is None else arrival_N < since
        self._moved_N = self._columns.get(MOVED, np.zeros(len(codes), np.int8))
        self._timed_N = self._columns["timed"].astype(np.bool_)
        self._observed: dict[object, tuple[Mask, Mask]] = {}
        self._windows: dict[int, Array] = {}

    def first(self, key: str) -> Ints:
        """A key column of the day's keys, `[K]`."""
        return np.asarray(self._columns[key][self._first])

    @cached_property
    def _arrived_N(self) -> Mask:
        return ~self._past_N & (self._moved_N == 0)

    @cached_property
    def changed(self) -> Mask:
        """Which keys have an impression that arrived or left a window, `[K]`."""
        said = ~self._past_N
        for days in windows(self._view):
            said |= self._left_N(days) & self._timed_N
        return self._per_key(said & (self._moved_N == 0)) > 0

    def sum(self, counter: Counter, what: str) -> Ints:
        """What is added to the sum of a counter's known impressions or hits, `[K]`."""
        known, hit = self._observe(counter)
        sign_N = self._ever_N if counter.days is None else self._window_N(counter.days)
        return self._per_key(sign_N * (known if what == "known" else hit))

    def last(self, counter: Counter, flags: Flags) -> Flags:
        """The flags of the keys' last impressions, oldest first, as of the end, `[K, most]`."""
        known, hit = self._observe(counter)
        flag_N = np.where(hit, HIT, np.where(known, KNOWN, NONE)).astype(np.int8)
        names = ("post_id", "event_time", "arrival_time")
        order = np.lexsort([*(self._columns[name] for name in names), self._key_N])
        order = order[self._arrived_N[order]]
        most = flags.shape[1]
        count_K = np.bincount(self._key_N[order], minlength=len(flags))
        ends = np.cumsum(count_K)
        newest = np.full_like(flags, NONE)
        for back in range(most):
            # The flag so many places from the end: of the day's rows, or what was there before.
            fresh = back < count_K
            newest[fresh, most - 1 - back] = flag_N[order[ends[fresh] - 1 - back]]
            older = ~fresh & (back - count_K < most)
            newest[older, most - 1 - back] = flags[older, most - 1 - back + count_K[older]]
        return newest

    def _observe(self, counter: Counter) -> tuple[Mask, Mask]:
        """As `observed`; the same for counters that look at the same of an impression."""
        what = (counter.of, counter.dwell_ms)
        if what not in self._observed:
            self._observed[what] = observed(self._rows, counter)
        return self._observed[what]

    @cached_property
    def _ever_N(self) -> Array:
        return self._arrived_N + self._moved_N

    def _left_N(self, days: int) -> Mask:
        """Which impressions leave a window of days within the span."""
        leaves = self._columns["event_time"] + days * DAY_MS
        if self._span.since is None:
            return np.zeros(len(leaves), np.bool_)
        return (leaves >= self._span.since) & (leaves < self._span.end)

    def _window_N(self, days: int) -> Array:
        """1 for an impression that came into a window, -1 for one that left it, else 0.

        One that arrived after it had already left never counts.
        """
        if days not in self._windows:
            self._windows[days] = self._window(days)
        return self._windows[days]

    def _window(self, days: int) -> Array:
        leaves = self._columns["event_time"] + days * DAY_MS
        inside = self._timed_N & (self._columns["arrival_time"] < leaves)
        came = self._arrived_N & (leaves >= self._span.end)
        left = self._past_N & (self._moved_N == 0) & self._left_N(days)
        moved = self._moved_N * (leaves >= (self._span.since or 0))
        return np.asarray(inside * (came.astype(np.int64) - left + moved))

    def _per_key(self, weights_N: Array) -> Ints:
        total = np.bincount(self._key_N, weights=weights_N, minlength=len(self.keys))
        return total.astype(np.int64)
