# SPDX-License-Identifier: Apache-2.0
"""One request's features from the online store, with what degraded on the way.

It decides which views are read, which pass through the cache and when a value is too old; the math of a feature is in
`serving.assemble`. Every call blocks.

Shape suffixes: N candidates, C context columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.spec import Spec, View
from serving import metrics
from serving.assemble import context_matrix, sequence_features
from serving.errors import Unavailable
from serving.feed_request import FeedRequest
from serving.store_client import HISTORY, NOTHING, Key, StoreClient, Stored


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A request's features.

    Attributes:
        history: the history value, b"" for a new member.
        features: sequence features of the candidates by name.
        context_NC: float32, NaN where missing.
        flags: what degraded for the whole request.
        post_flags: what degraded for each candidate.
    """

    history: bytes
    features: dict[str, npt.NDArray[Any]]
    context_NC: npt.NDArray[np.float32]
    flags: list[str]
    post_flags: list[list[str]]


class Fetcher:
    """Reads what one spec's requests need.

    Args:
        spec: names views, keys and features.
        store: where values are read.
    """

    def __init__(self, spec: Spec, store: StoreClient) -> None:
        self.spec, self.store = spec, store
        self._max_age_ms = {
            n: store.max_age_ms(n) for n in [HISTORY, *(v.name for v in spec.views)]
        }

    def fetch(self, asked: FeedRequest) -> Fetched:
        """All features of a request.

        Raises:
            Unavailable: the store does not answer, or holds values of another spec.
        """
        flags: list[str] = []
        post_flags: list[list[str]] = [[] for _ in asked.post_ids]
        history = self._history(asked, flags)
        posts, unknown = self._posts(asked, post_flags)
        views = {
            view.name: self._records(view, asked, (posts, unknown), flags, post_flags)
            for view in self.spec.views
            if view.kind != "content"
        }
        if not history and "missing:member_profile" in flags:
            flags.insert(0, "unknown_member")
        features = sequence_features(self.spec, asked.post_ids, posts, asked.request, asked.time_ms)
        return Fetched(
            history=history,
            features=features,
            context_NC=context_matrix(self.spec, views, posts, asked.time_ms),
            flags=flags,
            post_flags=post_flags,
        )

    def _history(self, asked: FeedRequest, flags: list[str]) -> bytes:
        [stored] = self.store.read(HISTORY, [(asked.member_id,)])
        [reason] = self._degraded(HISTORY, [stored], asked.time_ms)
        if reason:
            flags.append(f"{reason}:{HISTORY}")
        return b"" if reason in ("missing", "stale") else stored.value or b""

    def _posts(
        self, asked: FeedRequest, post_flags: list[list[str]]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Content records `[N]` and which posts are unknown."""
        view = self.spec.content
        stored = self._read(view, [(p,) for p in asked.post_ids.tolist()])
        reasons = self._degraded(view.name, stored, asked.time_ms)
        records, unknown = _unpack(view, stored, reasons)
        for flags, missing in zip(post_flags, unknown, strict=True):
            if missing:
                flags.append("unknown_post")
        return records, unknown

    def _records(
        self,
        view: View,
        asked: FeedRequest,
        content: tuple[npt.NDArray[Any], npt.NDArray[np.bool_]],
        flags: list[str],
        post_flags: list[list[str]],
    ) -> npt.NDArray[Any]:
        """The view's records: `[1]` where its keys name the member alone, else `[N]`."""
        posts, unknown = content
        keys = _keys(view, asked, posts)
        # Nobody knows an unknown post's actor, so nothing may be looked up by it.
        blind = unknown if "actor_id" in view.keys else np.zeros(len(keys), np.bool_)
        wanted = [key for key, skip in zip(keys, blind, strict=True) if not skip]
        found = iter(self._read(view, wanted))
        stored = [NOTHING if skip else next(found) for skip in blind]
        reasons = self._degraded(view.name, stored, asked.time_ms)
        records, _ = _unpack(view, stored, reasons)
        # A pair that never met has no row: that is its value, not a loss.
        if len(view.keys) == 1:
            targets = [flags] if view.keys == ("member_id",) else post_flags
            for target, reason in zip(targets, reasons, strict=True):
                if reason:
                    target.append(f"{reason}:{view.name}")
        return records

    def _read(self, view: View, keys: Sequence[Key]) -> list[Stored]:
        """Members' own values are read, values shared by all members may come from the cache."""
        unique = list(dict.fromkeys(keys))
        if not unique:
            return []
        read = self.store.read if "member_id" in view.keys else self.store.read_cached
        by_key = dict(zip(unique, read(view.name, unique), strict=True))
        return [by_key[key] for key in keys]

    def _degraded(self, view: str, stored: Sequence[Stored], time_ms: int) -> list[str]:
        """Why each value is not as the spec wants it: "" (fine), "missing", "stale" or "ahead".

        "ahead" is a value newer than the request's time: it is used, and flagged, because the online store keeps no
        older one.
        """
        limit = self._max_age_ms[view]
        reasons = [_reason(s, time_ms, limit) for s in stored]
        for reason in filter(None, set(reasons)):
            metrics.DEFAULTS.labels(view, reason).inc(reasons.count(reason))
        return reasons


def _reason(stored: Stored, time_ms: int, max_age_ms: int | None) -> str:
    if stored.value is None:
        return "missing"
    if stored.time_ms > time_ms:
        return "ahead"
    return "stale" if max_age_ms is not None and time_ms - stored.time_ms > max_age_ms else ""


def _keys(view: View, asked: FeedRequest, posts: npt.NDArray[Any]) -> list[Key]:
    if view.keys == ("member_id",):
        return [(asked.member_id,)]
    columns = {
        "member_id": [asked.member_id] * len(posts),
        "post_id": asked.post_ids.tolist(),
        "actor_id": posts["actor_id"].tolist(),
    }
    return list(zip(*(columns[name] for name in view.keys), strict=True))


def _unpack(
    view: View, stored: Sequence[Stored], reasons: Sequence[str]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Records with defaults where a value is missing or stale, and where that is."""
    usable = [
        None if reason in ("missing", "stale") else s.value
        for s, reason in zip(stored, reasons, strict=True)
    ]
    try:
        return view.unpack(usable)
    except ValueError as error:
        raise Unavailable(str(error)) from error
