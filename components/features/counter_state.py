# SPDX-License-Identifier: Apache-2.0
"""A view's counters as integers that are carried from day to day.

The state of a bucket has a row a key: for every counter how many impressions say anything and how
many are hits, in its window or ever, and the flags of the last few. A day adds what arrived and
takes away what left a window, so sums are exact; `packed_rows` makes the view's records of them.
The same function makes a state at once from the whole log: all of it arrives then. Pure functions
over Arrow; `components.features.counters` counts the same as of any time, and is the oracle.

Shape suffixes: N impressions, K keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.features.counters import counter_of, observed, rate_of, windows
from components.log.columns import Array, Ints, Mask, column
from feature_repo.kinds import Counter, View
from feature_repo.spec import DAY_MS, Spec

CHANGED = "changed"
"""Of a key: something arrived or left a window since the day before, so it has a row of the day."""
MOVED = "moved"
"""Of an impression: 0, or -1 and 1 where its post was declared since, for the keys that it had and
has. What is not there is 0."""
NONE, KNOWN, HIT = 0, 1, 2
"""Flags of the last impressions: says nothing (or there was none), is known, is a hit."""

_WHAT = {False: ("known", "hit"), True: ("known",)}
"""What is summed of a counter; an impression that is counted as such is always both."""

Flags = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Span:
    """The time a step covers, in ms: what arrived in [since, end); since None is from the start."""

    since: int | None
    end: int


def empty_state(view: View) -> pa.Table:
    """The state before the first day."""
    return state_schema(view).empty_table()


def state_schema(view: View) -> pa.Schema:
    """A state's columns: keys, whether the key changed, sums, and flags of the last impressions."""
    fields = [pa.field(key, pa.int64()) for key in view.keys]
    fields.append(pa.field(CHANGED, pa.bool_()))
    fields += [pa.field(name, pa.int64()) for name, *_ in _sums(view)]
    fields += [pa.field(name, pa.list_(pa.int8(), n)) for name, _, n in _lasts(view)]
    return pa.schema(fields)


def carry(state: pa.Table, rows: pa.Table, view: View, span: Span) -> pa.Table:
    """The state of a bucket at the end of a span.

    Args:
        state: `state_schema(view)`, as of the span's beginning, by its keys ascending.
        rows: the bucket's impressions that arrived in the span or left one of the view's windows
            in it (`counter_columns(view)`, maybe `MOVED`), in any order; others say nothing.
        view: a view of counters.
        span: from the state's time to the day's end.
    """
    day = _Day(_counted(rows, view, span), view, span)
    old = _codes(state, view.keys)
    place = np.searchsorted(old, day.keys)
    known = np.zeros(len(day.keys), np.bool_)
    inside = place < len(old)
    known[inside] = old[place[inside]] == day.keys[inside]
    merge = _Merge(place, known)
    columns: dict[str, pa.Array] = {}
    for key in view.keys:
        columns[key] = pa.array(merge.put(column(state, key), day.first(key)))
    columns[CHANGED] = pa.array(merge.put(np.zeros(len(old), np.bool_), day.changed))
    for name, counter, what in _sums(view):
        before = column(state, name)
        columns[name] = pa.array(merge.put(before, merge.before(before) + day.sum(counter, what)))
    for name, counter, most in _lasts(view):
        flags = _matrix(state, name, most)
        newest = day.last(counter, merge.before(flags))
        kind = pa.list_(pa.int8(), most)
        flat = pa.array(merge.put(flags, newest).reshape(-1))
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, type=kind)
    return _kept(pa.table(columns, state_schema(view)), view)


def packed_rows(state: pa.Table, view: View, spec: Spec) -> tuple[pa.Table, Array]:
    """The keys that changed, `[K]` rows, and their records `[K]` of `view.dtype`."""
    changed = state.filter(state[CHANGED])
    values = np.repeat(view.default, changed.num_rows)
    for feature in view.features:
        counter = counter_of(feature)
        known, hits = _totals(changed, counter)
        values[feature.name] = rate_of(counter, known, hits, spec)
    return changed.select(list(view.keys)), values


def only_windows(view: View) -> bool:
    """Whether no counter of a view looks beyond its windows, so that untimed rows never count."""
    return all(counter_of(f).days is not None for f in view.features)


def counts_last(view: View) -> bool:
    """Whether a counter looks at the last few impressions, which cannot be taken away again."""
    return bool(list(_lasts(view)))


def _name(counter: Counter) -> str:
    if counter.dwell_ms is None:
        return counter.of
    return f"{counter.of} {counter.dwell_ms[0]} to {counter.dwell_ms[1]}"


def _counters(view: View) -> list[Counter]:
    return [counter_of(f) for f in view.features]


def _sums(view: View) -> Iterator[tuple[str, Counter, str]]:
    """Each sum's column, the counter it is of, and whether it sums "known" or "hit" impressions."""
    names = set()
    for counter in _counters(view):
        if counter.last is None:
            scope = f"{_name(counter)}, {_scope(counter)}"
            for what in _WHAT[counter.of == "impression"]:
                if (name := f"{scope}, {what}") not in names:
                    names.add(name)
                    yield name, counter, what


def _scope(counter: Counter) -> str:
    return "ever" if counter.days is None else f"{counter.days} days"


def _lasts(view: View) -> Iterator[tuple[str, Counter, int]]:
    """Each column of flags, a counter it is of, and the most impressions one looks back."""
    most: dict[str, tuple[Counter, int]] = {}
    for counter in _counters(view):
        if counter.last is not None:
            name = f"{_name(counter)}, last"
            most[name] = (counter, max(counter.last, most.get(name, (counter, 0))[1]))
    for name, (counter, impressions) in most.items():
        yield name, counter, impressions


def _totals(state: pa.Table, counter: Counter) -> tuple[Array, Array]:
    """How many impressions are known to a counter and how many are hits, float64 `[K]` each."""
    if counter.last is not None:
        name = f"{_name(counter)}, last"
        flags = _matrix(state, name, state.schema.field(name).type.list_size)[:, -counter.last :]
        return (flags >= KNOWN).sum(1).astype(float), (flags == HIT).sum(1).astype(float)
    scope, whats = f"{_name(counter)}, {_scope(counter)}", _WHAT[counter.of == "impression"]
    known, *hits = (column(state, f"{scope}, {what}").astype(float) for what in whats)
    return known, hits[0] if hits else known


def _matrix(state: pa.Table, name: str, width: int) -> Flags:
    return np.asarray(column(state, name)).reshape(-1, width)


def _counted(rows: pa.Table, view: View, span: Span) -> pa.Table:
    """The rows that a view may count by the end of a span."""
    mask = column(rows, "arrival_time") < span.end
    if only_windows(view):
        mask &= column(rows, "timed").astype(np.bool_)
    return rows if mask.all() else rows.filter(pa.array(mask))


def _kept(state: pa.Table, view: View) -> pa.Table:
    """The keys to carry on: those that changed, and those that still count something.

    A key that counts in windows alone is new again once all have emptied.
    """
    if not only_windows(view):
        return state
    counts = np.asarray(column(state, CHANGED)).astype(np.bool_)
    for name, *_ in _sums(view):
        counts = counts | (column(state, name) != 0)
    return state if counts.all() else state.filter(pa.array(counts))


def _codes(rows: pa.Table, keys: Sequence[str]) -> Array:
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
class _Merge:
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
        values = old.copy()
        values[self.place_K[self.known_K]] = new_K[self.known_K]
        fresh = ~self.known_K
        return np.insert(values, self.place_K[fresh], new_K[fresh], axis=0)


class _Day:
    """What the impressions of a span add to the keys they have.

    Args:
        rows: N impressions that the view may count.
        view: a view of counters.
        span: the time they are added for.
    """

    def __init__(self, rows: pa.Table, view: View, span: Span) -> None:
        self._rows, self._view, self._span = rows, view, span
        codes = _codes(rows, view.keys)
        self.keys, self._first, self._key_N = np.unique(
            codes, return_index=True, return_inverse=True
        )
        arrival = column(rows, "arrival_time")
        self._past_N = (
            np.zeros(len(arrival), np.bool_) if span.since is None else arrival < span.since
        )
        moved = MOVED in rows.column_names
        self._moved_N = column(rows, MOVED) if moved else np.zeros(len(arrival), np.int8)

    def first(self, key: str) -> Ints:
        """A key column of the day's keys, `[K]`."""
        return column(self._rows, key)[self._first]

    @property
    def _arrived_N(self) -> Mask:
        return ~self._past_N & (self._moved_N == 0)

    @cached_property
    def changed(self) -> Mask:
        """Which keys have an impression that arrived or left a window, `[K]`."""
        said = ~self._past_N
        for days in windows(self._view):
            said |= self._left_N(days) & column(self._rows, "timed").astype(np.bool_)
        return self._per_key(said & (self._moved_N == 0)) > 0

    def sum(self, counter: Counter, what: str) -> Ints:
        """What is added to the sum of a counter's known impressions or hits, `[K]`."""
        known, hit = observed(self._rows, counter)
        sign_N = self._ever_N if counter.days is None else self._window_N(counter.days)
        return self._per_key(np.where(known if what == "known" else hit, sign_N, 0))

    def last(self, counter: Counter, flags: Flags) -> Flags:
        """The flags of the keys' last impressions, oldest first, as of the end, `[K, most]`."""
        known, hit = observed(self._rows, counter)
        flag_N = np.where(hit, HIT, np.where(known, KNOWN, NONE)).astype(np.int8)
        names = ("post_id", "event_time", "arrival_time")
        order = np.lexsort([*(column(self._rows, n) for n in names), self._key_N])
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

    @cached_property
    def _ever_N(self) -> Array:
        return self._arrived_N + self._moved_N

    def _left_N(self, days: int) -> Mask:
        """Which impressions leave a window of days within the span."""
        leaves = column(self._rows, "event_time") + days * DAY_MS
        if self._span.since is None:
            return np.zeros(len(leaves), np.bool_)
        return (leaves >= self._span.since) & (leaves < self._span.end)

    def _window_N(self, days: int) -> Array:
        """1 for an impression that came into a window, -1 for one that left it, else 0.

        One that arrived after it had already left never counts.
        """
        leaves = column(self._rows, "event_time") + days * DAY_MS
        inside = column(self._rows, "timed").astype(np.bool_)
        inside &= column(self._rows, "arrival_time") < leaves
        came = self._arrived_N & (leaves >= self._span.end)
        left = self._past_N & (self._moved_N == 0) & self._left_N(days)
        moved = self._moved_N * (leaves >= (self._span.since or 0))
        return np.where(inside, came.astype(np.int64) - left + moved, 0)

    def _per_key(self, weights_N: Array) -> Ints:
        total = np.bincount(self._key_N, weights=weights_N, minlength=len(self.keys))
        return total.astype(np.int64)
