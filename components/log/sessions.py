# SPDX-License-Identifier: Apache-2.0
"""Which session an impression belongs to, as a stable int64.

Where a request id is logged, the request is the session: none of its feedback was known when it
was served. Elsewhere a pause longer than the spec's gap starts a new one, and a session that was
begun in an earlier day's file keeps its id. The order of untimed rows is all that is known of them,
so each is a session of its own: shuffling inside a session must not touch it. This module knows
nothing of files.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from components.log.columns import Array, Ints, Mask, column
from feature_repo.spec import Spec

NO_SESSION = -1


def with_sessions(good: pa.Table, earlier: pa.Table, spec: Spec) -> pa.Table:
    """The rows with `session_id`, as the spec's schema.

    Args:
        good: impressions `[N]` that passed every check.
        earlier: earlier days' impressions with their `session_id`, which `good` may continue.
        spec: says the schema, and how long a pause may be.
    """
    member, event = _values(good, "member_id"), _values(good, "event_time")
    session = request_sessions(member, _values(good, "request_id"))
    untimed, gapped = ~_values(good, "timed"), gapped_rows(good)
    post = _values(good, "post_id")
    session[untimed] = untimed_sessions(member[untimed], event[untimed], post[untimed])
    before = earlier.filter(gapped_rows(earlier))
    session[gapped] = gap_sessions(
        np.append(_values(before, "member_id"), member[gapped]),
        np.append(_values(before, "event_time"), event[gapped]),
        np.append(_values(before, "session_id"), np.full(int(gapped.sum()), NO_SESSION)),
        spec.session_gap_ms,
    )[before.num_rows :]
    field = pa.field("session_id", pa.int64(), nullable=False)
    return good.cast(spec.impression_schema).append_column(field, pa.array(session))


def gapped_rows(table: pa.Table) -> Mask:
    """Which impressions' session is known by a pause only, `[N]`."""
    return np.asarray(table["request_id"].is_null()) & _values(table, "timed")


def _values(table: pa.Table, name: str) -> Array:
    """A column that has no null here, but for a request id that is looked at first."""
    return column(table, name, "zero")


def mix(*parts: Ints | int) -> Ints:
    """A non-negative 63-bit hash of each row of some int64 columns (the splitmix64 finaliser)."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        z = np.atleast_1d(np.asarray(part, np.int64)).view(np.uint64) ^ state
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = z ^ (z >> np.uint64(31))
    return np.asarray(state >> np.uint64(1), np.int64)


def request_sessions(member: Ints, request: Ints) -> Ints:
    """Session ids `[N]` of impressions with a request id."""
    return mix(1, member, request)


def untimed_sessions(member: Ints, event_time: Ints, post: Ints) -> Ints:
    """Session ids `[N]` of untimed impressions: one each."""
    return mix(2, member, event_time, post)


def gap_sessions(member: Ints, event_time: Ints, known: Ints, gap_ms: int) -> Ints:
    """Session ids `[N]` by pauses.

    Args:
        member: `[N]`, in any order.
        event_time: `[N]` ms.
        known: `[N]`, the session an impression was given on an earlier day, `NO_SESSION` for a new
            one.
        gap_ms: a longer pause starts a new session.

    Returns:
        `known` where there is one. A new impression joins the nearest known one before it in its
        unbroken run, else the nearest after it; a run without any is named by its first time.
    """
    order = np.lexsort((known, event_time, member))
    member, event_time, known = member[order], event_time[order], known[order]
    starts = np.ones(len(order), np.bool_)
    starts[1:] = (member[1:] != member[:-1]) | (np.diff(event_time) > gap_ms)
    first = np.flatnonzero(starts)
    run = np.cumsum(starts) - 1
    place = np.arange(len(order))
    before = np.maximum.accumulate(np.where(known != NO_SESSION, place, -1))
    after = np.where(known != NO_SESSION, place, len(order))
    after = np.minimum.accumulate(after[::-1])[::-1]
    has_before = before >= first[run]
    end = np.append(first[1:], len(order))
    has_after = after < end[run]
    named = mix(3, member[first[run]], event_time[first[run]])
    session = np.where(has_after, known[np.minimum(after, len(order) - 1)], named)
    session = np.where(has_before, known[before], session)
    out = np.empty(len(order), np.int64)
    out[order] = session
    return out
