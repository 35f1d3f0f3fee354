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

from functools import cache

import numpy as np
import pyarrow as pa

from components.features.counters import counter_of, rate_of
from components.features.key_sums import (
    HIT,
    KNOWN,
    DaySums,
    Flags,
    Merge,
    Span,
    key_codes,
)
from components.log.columns import Array, column
from feature_repo.kinds import Counter, View
from feature_repo.spec import Spec

CHANGED = "changed"
"""Of a key: something arrived or left a window since the day before, so it has a row of the day."""
_WHAT = {False: ("known", "hit"), True: ("known",)}
"""What is summed of a counter; an impression that is counted as such is always both."""


def empty_state(view: View) -> pa.Table:
    """The state before the first day."""
    return state_schema(view).empty_table()


@cache
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
    day = DaySums(_counted(rows, view, span), view, span)
    old = key_codes(state, view.keys)
    place = np.searchsorted(old, day.keys)
    known = np.zeros(len(day.keys), np.bool_)
    inside = place < len(old)
    known[inside] = old[place[inside]] == day.keys[inside]
    merge = Merge(place, known)
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
    sums = {name: column(changed, name).astype(float) for name, *_ in _sums(view)}
    values = np.repeat(view.default, changed.num_rows)
    for feature in view.features:
        counter = counter_of(feature)
        last = counter.last is not None
        known, hits = _flagged(changed, counter) if last else _totals(sums, counter)
        values[feature.name] = rate_of(counter, known, hits, spec)
    return changed.select(list(view.keys)), values


def only_windows(view: View) -> bool:
    """Whether no counter of a view looks beyond its windows, so that untimed rows never count."""
    return all(counter_of(f).days is not None for f in view.features)


def counts_last(view: View) -> bool:
    """Whether a counter looks at the last few impressions, which cannot be taken away again."""
    return bool(_lasts(view))


def _name(counter: Counter) -> str:
    if counter.dwell_ms is None:
        return counter.of
    return f"{counter.of} {counter.dwell_ms[0]} to {counter.dwell_ms[1]}"


def _counters(view: View) -> list[Counter]:
    return [counter_of(f) for f in view.features]


@cache
def _sums(view: View) -> tuple[tuple[str, Counter, str], ...]:
    """Each sum's column, the counter it is of, and whether it sums "known" or "hit" impressions."""
    sums: dict[str, tuple[str, Counter, str]] = {}
    for counter in _counters(view):
        if counter.last is None:
            scope = f"{_name(counter)}, {_scope(counter)}"
            for what in _WHAT[counter.of == "impression"]:
                name = f"{scope}, {what}"
                sums.setdefault(name, (name, counter, what))
    return tuple(sums.values())


def _scope(counter: Counter) -> str:
    return "ever" if counter.days is None else f"{counter.days} days"


@cache
def _lasts(view: View) -> tuple[tuple[str, Counter, int], ...]:
    """Each column of flags, a counter it is of, and the most impressions one looks back."""
    most: dict[str, tuple[Counter, int]] = {}
    for counter in _counters(view):
        if counter.last is not None:
            name = f"{_name(counter)}, last"
            most[name] = (counter, max(counter.last, most.get(name, (counter, 0))[1]))
    return tuple((name, counter, impressions) for name, (counter, impressions) in most.items())


def _totals(sums: dict[str, Array], counter: Counter) -> tuple[Array, Array]:
    """How many impressions are known to a counter and how many are hits, float64 `[K]` each."""
    scope, whats = f"{_name(counter)}, {_scope(counter)}", _WHAT[counter.of == "impression"]
    known, *hits = (sums[f"{scope}, {what}"] for what in whats)
    return known, hits[0] if hits else known


def _flagged(state: pa.Table, counter: Counter) -> tuple[Array, Array]:
    """As `_totals`, of a counter of the last few impressions."""
    name = f"{_name(counter)}, last"
    flags = _matrix(state, name, state.schema.field(name).type.list_size)
    last = flags[:, -(counter.last or 0) :]
    return (last >= KNOWN).sum(1).astype(float), (last == HIT).sum(1).astype(float)


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
