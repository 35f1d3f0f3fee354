# SPDX-License-Identifier: Apache-2.0
"""Counters as of a time: what a view's features were when the log was known up to a cutoff.

The one definition of every counted feature, used for the daily rows and for backtests at any
freshness. An impression counts when it arrived strictly before the cutoff; in a window of d days
also when it is timed and was served at or after the cutoff minus d days. Vectorised numpy; it reads
no files.

Shape suffixes: N impressions, R queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from components.log.columns import Array, Ints, Mask, column, select_list
from feature_repo.kinds import Counter, View
from feature_repo.spec import DAY_MS, Spec

DWELL_PRIOR = 0.1
"""The prior of a dwell range and of an action that is no task."""

Floats = npt.NDArray[np.float64]


def count_as_of(
    impressions: pa.Table, view: View, keys: pa.Table, cutoff_ms: Ints, spec: Spec
) -> Array:
    """The view's record for each key as of its own cutoff.

    Args:
        impressions: the columns of `counter_columns(view)`, in any order.
        view: a view of counters.
        keys: R rows with the view's key columns.
        cutoff_ms: int64 `[R]`; only impressions with `arrival_time < cutoff` are known.
        spec: gives the tasks' priors.

    Returns:
        records `[R]` of `view.dtype`; the view's default where the key had no impression yet. A
        view that counts only in windows has no untimed impressions.
    """
    queries = np.asarray(cutoff_ms, np.int64)
    result = np.repeat(view.default, len(queries))
    if not len(queries) or not impressions.num_rows:
        return result
    if all(counter_of(f).days is not None for f in view.features):
        impressions = impressions.filter(impressions["timed"])
    codes, query_codes = _codes(impressions, keys, view.keys)
    asked = codes >= 0
    timeline = _Timeline(impressions.filter(pa.array(asked)), codes[asked], query_codes, queries)
    seen = timeline.upto > timeline.start
    for feature in view.features:
        values = timeline.value(counter_of(feature), spec)
        result[feature.name] = np.where(seen, values, view.default[feature.name])
    return result


def counter_columns(view: View) -> list[str]:
    """The columns of an impression that `count_as_of` reads for a view."""
    counters = [counter_of(f) for f in view.features]
    actions = {"dwell_ms" if c.of == "dwell" else c.of for c in counters} - {"impression"}
    return [*view.keys, *({"post_id"} - set(view.keys)), *_TIMES, *sorted(actions)]


def counted_query(spec: Spec) -> str:
    """SQL for a log's impressions with the columns that any of the spec's counters reads."""
    names = {n for view in spec.views if view.kind == "counters" for n in counter_columns(view)}
    return f"select {select_list(sorted(names))} from events"


def windows(view: View) -> list[int]:
    """The window lengths of a view in days."""
    return sorted({d for f in view.features if (d := counter_of(f).days) is not None})


_TIMES = ("event_time", "arrival_time", "timed")


def counter_of(feature: object) -> Counter:
    """The counter of a feature in a view of counters."""
    counter = getattr(feature, "counter", None)
    assert counter is not None, f"{feature} is in a view of counters and has no counter"
    return counter


def _codes(impressions: pa.Table, keys: pa.Table, names: tuple[str, ...]) -> tuple[Ints, Ints]:
    """Small integers for the keys of impressions and queries, -1 for a key nobody asks for."""
    wanted = keys.num_rows
    code = np.zeros(wanted + impressions.num_rows, np.int64)
    for name in names:
        parts = [t[name].cast(pa.int64()).chunks for t in (keys, impressions)]
        ids = pc.dictionary_encode(pa.chunked_array([*parts[0], *parts[1]]).combine_chunks())
        pair = code * max(len(ids.dictionary), 1) + ids.indices.to_numpy()
        code = pc.dictionary_encode(pa.array(pair)).indices.to_numpy().astype(np.int64)
    # Codes are handed out in order of appearance and queries come first: an impression whose code
    # is above all of theirs has a key nobody asks for.
    limit = code[:wanted].max() + 1
    return np.where(code[wanted:] < limit, code[wanted:], -1), code[:wanted]


@dataclass(frozen=True)
class _Points:
    """Times sorted within each key, and how many of them lie before each query.

    Attributes:
        order_N: positions of the impressions, by key and time.
        start: `[R]`, where each query's key begins in the order.
        upto: `[R]`, the end of the impressions of its key before its cutoff.
    """

    order_N: Ints
    start: Ints
    upto: Ints

    def sums(self, weights_N: Floats) -> tuple[Floats, Floats]:
        """Running sums of a weight at `start` and at `upto`."""
        total = np.concatenate([[0.0], np.cumsum(weights_N[self.order_N])])
        return total[self.start], total[self.upto]

    def before(self, weights_N: Floats) -> Floats:
        """The sum of a weight over the impressions before each query, `[R]`."""
        low, high = self.sums(weights_N)
        return high - low


def _points(
    codes: Ints, times: Array, query_codes: Ints, cutoffs: Ints, ties: tuple[Array, ...]
) -> _Points:
    # Only `time < cutoff` matters, so times are clipped around the cutoffs: then key and time fit
    # into one integer and one binary search answers for all keys.
    low, high = cutoffs.min() - 1, cutoffs.max()
    span = int(high - low) + 1
    assert (int(query_codes.max()) + 1) * span < 2**63, "too many keys over too long a time"
    order = np.lexsort((*ties, times, codes))
    composite = codes[order] * span + (np.clip(times[order], low, high) - low)
    start = np.searchsorted(composite, query_codes * span, side="left")
    upto = np.searchsorted(composite, query_codes * span + (cutoffs - low), side="left")
    return _Points(order, start, upto)


@dataclass(frozen=True)
class _Timeline:
    """The impressions that queries ask for, ordered by key and arrival."""

    impressions: pa.Table
    codes: Ints
    query_codes: Ints
    cutoffs: Ints

    @cached_property
    def arrivals(self) -> _Points:
        ties = (column(self.impressions, "post_id"), column(self.impressions, "event_time"))
        arrival = column(self.impressions, "arrival_time")
        return _points(self.codes, arrival, self.query_codes, self.cutoffs, ties)

    @property
    def start(self) -> Ints:
        return self.arrivals.start

    @property
    def upto(self) -> Ints:
        return self.arrivals.upto

    @cached_property
    def _exits(self) -> dict[int, tuple[Floats, _Points]]:
        return {}

    def _window(self, days: int) -> tuple[Floats, _Points]:
        """Which impressions ever count in a window (1 or 0), and when they leave it.

        One counts for cutoffs c with `arrival < c <= event_time + days`: the number of those that
        arrived before c less the number that left before c. One that arrived after it had already
        left never counts.
        """
        if days not in self._exits:
            served, arrival = (column(self.impressions, n) for n in ("event_time", "arrival_time"))
            leaves = served + days * DAY_MS
            inside = column(self.impressions, "timed").astype(np.bool_) & (arrival < leaves)
            points = _points(self.codes, leaves, self.query_codes, self.cutoffs, ())
            self._exits[days] = (inside.astype(np.float64), points)
        return self._exits[days]

    def total(self, weights_N: Floats, counter: Counter) -> Floats:
        """The sum of a weight over the impressions that a counter looks at, `[R]`."""
        if counter.days is not None:
            inside, exits = self._window(counter.days)
            weights = weights_N * inside
            return self.arrivals.before(weights) - exits.before(weights)
        if counter.last is not None:
            running = np.concatenate([[0.0], np.cumsum(weights_N[self.arrivals.order_N])])
            first = np.maximum(self.upto - counter.last, self.start)
            return running[self.upto] - running[first]
        return self.arrivals.before(weights_N)

    def value(self, counter: Counter, spec: Spec) -> Floats:
        """The counter's value for each query, `[R]`."""
        known, hit = (mask.astype(np.float64) for mask in observed(self.impressions, counter))
        return rate_of(counter, self.total(known, counter), self.total(hit, counter), spec)


def observed(impressions: pa.Table, counter: Counter) -> tuple[Mask, Mask]:
    """Which impressions say anything to a counter, and which are hits, `[N]` each."""
    if counter.of == "impression":
        all_N = np.ones(impressions.num_rows, np.bool_)
        return all_N, all_N
    values = column(impressions, "dwell_ms" if counter.of == "dwell" else counter.of)
    known = values >= 0
    if counter.of != "dwell":
        return known, values == 1
    assert counter.dwell_ms is not None, "a dwell counter says its range"
    low, high = counter.dwell_ms
    return known, known & (values >= low) & (values < high)


def rate_of(counter: Counter, known: Floats, hits: Floats, spec: Spec) -> Floats:
    """A counter's value for each key: the hits, or their smoothed share of what is known."""
    if not counter.rate:
        return hits
    rate = (hits + counter.strength * _prior(counter, spec)) / (known + counter.strength)
    return np.where(known > 0, rate, np.nan) if counter.last is not None else rate


def _prior(counter: Counter, spec: Spec) -> float:
    return {t.name: t.prior for t in spec.tasks}.get(counter.of, DWELL_PRIOR)
