# SPDX-License-Identifier: Apache-2.0
"""One request's features from the online store, with what degraded on the way.

It decides which views are read, which pass through the cache, when a value is too old and that none
is used which ingest would have refused; the math of a feature is in `serving.assemble`. Every call
blocks.

Shape suffixes: N candidates, C context columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.kinds import UNKNOWN, View
from feature_repo.spec import Spec
from feature_repo.values import illegal, insane
from serving import metrics
from serving.assemble import context_matrix, sequence_features
from serving.errors import Unavailable
from serving.transformer.feed_request import FeedRequest
from serving.transformer.store_client import HISTORY, Key, StoreClient, Stored

Reasons = list[tuple[int, str]]
"""Rows with what is not as the spec wants it, as flags: `reason:view` or `invalid:feature`. Rows
that are as wanted, most of them, are not among these.
"""
UNUSED = ("missing", "stale")
"""A value that is so is not used: the declared default stands for it."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A request's features.

    Attributes:
        history: the history value, b"" for a new member.
        features: sequence features of the candidates by name.
        context_NC: float32, NaN where missing.
        flags: what degraded for the whole request.
        post_flags: what degraded for each candidate.
        as_of_ms: up to when each view was known to be complete, by view.
    """

    history: bytes
    features: dict[str, npt.NDArray[Any]]
    context_NC: npt.NDArray[np.float32]
    flags: list[str]
    post_flags: list[list[str]]
    as_of_ms: dict[str, int]


class Fetcher:
    """Reads what one spec's requests need.

    Args:
        spec: names views, keys and features.
        store: where values are read.
        max_age_hours: a value whose view was last brought up to date longer ago than this degrades
            to its default; Feast itself enforces no age online.
    """

    def __init__(self, spec: Spec, store: StoreClient, max_age_hours: float = 168.0) -> None:
        self.spec, self.store = spec, store
        self.max_age_ms = int(max_age_hours * 3_600_000)

    def fetch(self, request: FeedRequest) -> Fetched:
        """All features of a request.

        Raises:
            Unavailable: the store does not answer, or holds values of another spec.
        """
        # Before any value is read: what is read now is at least as new as the store said then.
        self.store.refresh()
        spec, time_ms = self.spec, request.time_ms
        history, history_reasons = self._history(request)
        post_keys = [(post,) for post in request.post_ids.tolist()]
        posts, content_reasons = self._records(spec.content, post_keys, time_ms)
        read = [
            (view, *self._records(view, _keys(view, request, posts), time_ms))
            for view in spec.views
            if view.kind != "content"
        ]
        own = [reasons for view, _, reasons in read if _of_member(view)]
        shared = [reasons for view, _, reasons in read if not _of_member(view)]
        return Fetched(
            history=history.value or b"",
            features=sequence_features(spec, request.post_ids, posts, request.request, time_ms),
            context_NC=context_matrix(spec, {v.name: rows for v, rows, _ in read}, posts, time_ms),
            flags=_request_flags(request, history, chain(history_reasons, *own)),
            post_flags=_by_row(chain(content_reasons, *shared), len(post_keys)),
            as_of_ms={v.name: self.store.as_of_ms(v.name) for v in spec.views}
            | {HISTORY: history.time_ms},
        )

    def _history(self, request: FeedRequest) -> tuple[Stored, Reasons]:
        """The history value, complete as of its time; a pushed one is newer than its view."""
        [stored] = self.store.read(HISTORY, [(request.member_id,)])
        as_of = max(stored.time_ms, self.store.as_of_ms(HISTORY))
        [reason] = self._degraded(HISTORY, [stored], request.time_ms)
        value = None if reason in UNUSED else stored.value
        return Stored(value, as_of), _flags(HISTORY, [reason])

    def _records(
        self, view: View, keys: Sequence[Key], time_ms: int
    ) -> tuple[npt.NDArray[Any], Reasons]:
        """The view's records, one a key, with declared defaults for what cannot be used."""
        stored = self._read(view, keys)
        # A pair that never met has no row: that is its value, not a loss.
        degraded = self._degraded(view.name, stored, time_ms, may_miss=len(view.keys) > 1)
        records, invalid = _valid(view, _unpack(view, stored, degraded))
        missing = "unknown_post" if view.kind == "content" else None
        return records, [*_flags(view.name, degraded, missing), *invalid]

    def _read(self, view: View, keys: Sequence[Key]) -> list[Stored]:
        """Members' own values are read, values shared by all members may come from the cache."""
        unique = list(dict.fromkeys(keys))
        read = self.store.read if "member_id" in view.keys else self.store.read_cached
        by_key = dict(zip(unique, read(view.name, unique), strict=True))
        return [by_key[key] for key in keys]

    def _degraded(
        self, view: str, stored: Sequence[Stored], time_ms: int, *, may_miss: bool = False
    ) -> list[str]:
        """Why each value is not as the spec wants it: "" (fine), "missing", "stale" or "ahead".

        "ahead" is a value newer than the request's time: it is used, and flagged, because the
        online store keeps no older one. Each reason is counted.
        """
        oldest = time_ms - self.max_age_ms
        if self.store.as_of_ms(view) >= oldest:
            oldest = 0
        reasons = [
            "" if may_miss and s.value is None else _reason(s, time_ms, oldest) for s in stored
        ]
        for reason in filter(None, set(reasons)):
            metrics.DEFAULTS.labels(view, reason).inc(reasons.count(reason))
        return reasons


def _reason(stored: Stored, time_ms: int, oldest_ms: int) -> str:
    if stored.value is None:
        return "missing"
    if stored.time_ms > time_ms:
        return "ahead"
    return "stale" if stored.time_ms < oldest_ms else ""


def _flags(view: str, degraded: Sequence[str], missing: str | None = None) -> Reasons:
    """What `_degraded` says of each row, as flags; `missing` stands for `missing:view`."""
    named = {"missing": missing or f"missing:{view}"}
    return [
        (row, named.get(reason, f"{reason}:{view}"))
        for row, reason in enumerate(degraded)
        if reason
    ]


def _by_row(reasons: Iterable[tuple[int, str]], rows: int) -> list[list[str]]:
    """Each row's flags, in the order of the reasons."""
    flags: list[list[str]] = [[] for _ in range(rows)]
    for row, flag in reasons:
        flags[row].append(flag)
    return flags


def _request_flags(
    request: FeedRequest, history: Stored, reasons: Iterable[tuple[int, str]]
) -> list[str]:
    """What degraded for the whole request: its member's values, then what it said itself."""
    flags = [flag for _, flag in reasons]
    unknown = not history.value and "missing:member_profile" in flags
    metrics.DEFAULTS.labels("request", "invalid").inc(len(request.invalid))
    return [
        *(["unknown_member"] if unknown else []),
        *flags,
        *(f"invalid:{name}" for name in request.invalid),
    ]


def _of_member(view: View) -> bool:
    """Whether the view has one record a request, and not one a candidate."""
    return view.keys == ("member_id",)


def _keys(view: View, request: FeedRequest, posts: npt.NDArray[Any]) -> list[Key]:
    if _of_member(view):
        return [(request.member_id,)]
    columns = {
        "member_id": [request.member_id] * len(posts),
        "post_id": request.post_ids.tolist(),
        "actor_id": posts["actor_id"].tolist(),
    }
    return list(zip(*(columns[name] for name in view.keys), strict=True))


def _unpack(view: View, stored: Sequence[Stored], degraded: Sequence[str]) -> npt.NDArray[Any]:
    """Records with defaults where a value is missing or stale."""
    usable = [
        None if reason in UNUSED else s.value for s, reason in zip(stored, degraded, strict=True)
    ]
    try:
        return view.unpack(usable)[0]
    except ValueError as error:
        raise Unavailable(str(error)) from error


def _valid(view: View, records: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Reasons]:
    """Records with the default for each value that ingest would refuse, which is counted."""
    faults = {f.name: illegal(f.kind, records[f.name]) for f in view.features}
    if view.kind == "content":
        created = records["created_ms"]
        faults["created_ms"] = insane(created) & (created != UNKNOWN)
    reasons: Reasons = []
    for name, mask in faults.items():
        rows = np.flatnonzero(mask)
        if not len(rows):
            continue
        records = records.copy()
        records[name][rows] = view.default[name][0]
        metrics.DEFAULTS.labels(view.name, "invalid").inc(len(rows))
        reasons += [(row, f"invalid:{name}") for row in rows.tolist()]
    return records, reasons
