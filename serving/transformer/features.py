# SPDX-License-Identifier: Apache-2.0
"""One request's features from the online store, with what degraded on the way.

It decides which views are read, which pass through the cache, when a value is too old and that none
is used which ingest would have refused; the math of a feature is in `serving.assemble`. Every call
blocks.

Shape suffixes: N candidates, C context columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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

    def fetch(self, asked: FeedRequest) -> Fetched:
        """All features of a request.

        Raises:
            Unavailable: the store does not answer, or holds values of another spec.
        """
        # Before any value is read: what is read now is at least as new as the store said then.
        self.store.refresh()
        flags: list[str] = []
        post_flags: list[list[str]] = [[] for _ in asked.post_ids]
        history, as_of = self._history(asked, flags)
        posts = self._posts(asked, post_flags)
        views = {
            view.name: self._records(view, asked, posts, flags, post_flags)
            for view in self.spec.views
            if view.kind != "content"
        }
        if not history and "missing:member_profile" in flags:
            flags.insert(0, "unknown_member")
        flags += [f"invalid:{name}" for name in asked.invalid]
        metrics.DEFAULTS.labels("request", "invalid").inc(len(asked.invalid))
        features = sequence_features(self.spec, asked.post_ids, posts, asked.request, asked.time_ms)
        return Fetched(
            history=history,
            features=features,
            context_NC=context_matrix(self.spec, views, posts, asked.time_ms),
            flags=flags,
            post_flags=post_flags,
            as_of_ms={v.name: self.store.as_of_ms(v.name) for v in self.spec.views}
            | {HISTORY: as_of},
        )

    def _history(self, asked: FeedRequest, flags: list[str]) -> tuple[bytes, int]:
        """The history value, and as of when it is complete: a pushed one is newer than its view."""
        [stored] = self.store.read(HISTORY, [(asked.member_id,)])
        as_of = max(stored.time_ms, self.store.as_of_ms(HISTORY))
        [reason] = self._degraded(HISTORY, [stored], asked.time_ms)
        if reason:
            flags.append(f"{reason}:{HISTORY}")
        return b"" if reason in ("missing", "stale") else stored.value or b"", as_of

    def _posts(self, asked: FeedRequest, post_flags: list[list[str]]) -> npt.NDArray[Any]:
        """Content records `[N]`; an unknown post has the declared defaults, its actor too."""
        view = self.spec.content
        stored = self._read(view, [(p,) for p in asked.post_ids.tolist()])
        reasons = self._degraded(view.name, stored, asked.time_ms)
        for flags, reason in zip(post_flags, reasons, strict=True):
            if reason:
                flags.append("unknown_post" if reason == "missing" else f"{reason}:{view.name}")
        return _valid(view, _unpack(view, stored, reasons), post_flags)

    def _records(
        self,
        view: View,
        asked: FeedRequest,
        posts: npt.NDArray[Any],
        flags: list[str],
        post_flags: list[list[str]],
    ) -> npt.NDArray[Any]:
        """The view's records: `[1]` where its keys name the member alone, else `[N]`."""
        keys = _keys(view, asked, posts)
        stored = self._read(view, keys)
        # A pair that never met has no row: that is its value, not a loss.
        pair = len(view.keys) > 1
        reasons = self._degraded(view.name, stored, asked.time_ms, may_miss=pair)
        targets = [flags] if view.keys == ("member_id",) else post_flags
        for target, reason in zip(targets, reasons, strict=True):
            if reason:
                target.append(f"{reason}:{view.name}")
        return _valid(view, _unpack(view, stored, reasons), targets)

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
        online store keeps no older one. Each reason is counted here and flagged by the caller.
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


def _keys(view: View, asked: FeedRequest, posts: npt.NDArray[Any]) -> list[Key]:
    if view.keys == ("member_id",):
        return [(asked.member_id,)]
    columns = {
        "member_id": [asked.member_id] * len(posts),
        "post_id": asked.post_ids.tolist(),
        "actor_id": posts["actor_id"].tolist(),
    }
    return list(zip(*(columns[name] for name in view.keys), strict=True))


def _unpack(view: View, stored: Sequence[Stored], reasons: Sequence[str]) -> npt.NDArray[Any]:
    """Records with defaults where a value is missing or stale."""
    usable = [
        None if reason in ("missing", "stale") else s.value
        for s, reason in zip(stored, reasons, strict=True)
    ]
    try:
        return view.unpack(usable)[0]
    except ValueError as error:
        raise Unavailable(str(error)) from error


def _valid(view: View, records: npt.NDArray[Any], targets: Sequence[list[str]]) -> npt.NDArray[Any]:
    """Records with the default in the place of each value that ingest would refuse, which is
    counted, and flagged in its row's target.
    """
    faults = {f.name: illegal(f.kind, records[f.name]) for f in view.features}
    if view.kind == "content":
        created = records["created_ms"]
        faults["created_ms"] = insane(created) & (created != UNKNOWN)
    for name, mask in faults.items():
        rows = np.flatnonzero(mask)
        if not len(rows):
            continue
        records = records.copy()
        records[name][rows] = view.default[name][0]
        metrics.DEFAULTS.labels(view.name, "invalid").inc(len(rows))
        for row in rows.tolist():
            targets[row].append(f"invalid:{name}")
    return records
