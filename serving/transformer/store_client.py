# SPDX-License-Identifier: Apache-2.0
"""Packed values from Feast's online store, some through a bounded cache with a stated freshness.

It reads a rendered Feast repository and knows views and keys; it does not know what a value means.
Every call blocks: the transformer makes them in one thread of its own, which is also what makes the
cache safe without a lock.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feature_repo.opening import open_repository
from feature_repo.spec import Spec
from serving import metrics
from serving.errors import Unavailable

Key = tuple[int, ...]
REGISTRY_SECONDS = 60.0
HISTORY = "history"
"""The history view, its value's field, and the metric's label."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A value of the online store.

    Attributes:
        value: its bytes; None where there is none.
        time_ms: when it was true, in ms since the epoch.
    """

    value: bytes | None
    time_ms: int


NOTHING = Stored(None, 0)


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """The cache's limits.

    Attributes:
        seconds: how old a cached value may be; 0 switches the cache off.
        entries: most values kept; the least recently used goes first.
    """

    seconds: float = 60.0
    entries: int = 200_000


class Cache:
    """Least recently used values by (view, key), each for `seconds`; absence is remembered too."""

    def __init__(self, config: CacheConfig) -> None:
        self.config = config
        self._values: OrderedDict[tuple[str, Key], tuple[float, Stored]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, view: str, key: Key, now: float) -> Stored | None:
        """The value if it is fresh at `now` (`time.monotonic`)."""
        entry = self._values.get((view, key))
        if entry is None or now >= entry[0]:
            return None
        self._values.move_to_end((view, key))
        return entry[1]

    def put(self, view: str, key: Key, stored: Stored, now: float) -> None:
        """Keeps a value, and drops the least recently used beyond the limit."""
        if self.config.seconds <= 0:
            return
        self._values[(view, key)] = (now + self.config.seconds, stored)
        self._values.move_to_end((view, key))
        while len(self._values) > self.config.entries:
            self._values.popitem(last=False)

    def forget(self, view: str) -> None:
        """Drops the values of one view."""
        for key in [key for key in self._values if key[0] == view]:
            del self._values[key]


class StoreClient:
    """Online reads of a rendered Feast repository.

    Args:
        feast_dir: the folder with `feature_store.yaml`.
        spec: names the views and their keys.
        cache: the limits of the cache.

    Raises:
        ValueError: no such repository, one without the spec's views, or one of another spec.
    """

    def __init__(self, feast_dir: Path, spec: Spec, cache: CacheConfig | None = None) -> None:
        if not (feast_dir / "feature_store.yaml").is_file():
            raise ValueError(f"{feast_dir} is no Feast repository; run the features step first")
        # Importing Feast takes seconds, so only a process that reads from it pays.
        store = open_repository(feast_dir)
        from feast.infra.provider import get_provider

        self._store, self._provider = store, get_provider(store.config)
        self._keys = {view.name: view.keys for view in spec.views} | {HISTORY: ("member_id",)}
        self._views = {name: _view(store, name, feast_dir) for name in self._keys}
        self._spec, self._feast_dir = spec, feast_dir
        self._check_spec()
        self._cache, self._refreshed = Cache(cache or CacheConfig()), time.monotonic()

    def as_of_ms(self, view: str) -> int:
        """The end of the view's last materialization, in ms since the epoch; 0 before the first.

        A row is written only where something changed, so a value is as young as the later of its
        own time and this.
        """
        return _as_of_ms(self._views[view])

    def read(self, view: str, keys: Sequence[Key]) -> list[Stored]:
        """The value of each key, straight from the store; Unavailable if it does not answer."""
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        names = list(self._keys[view])
        field = HISTORY if view == HISTORY else "packed"
        entities = [
            EntityKey(join_keys=names, entity_values=[Value(int64_val=v) for v in key])
            for key in keys
        ]
        try:
            rows = self._provider.online_read(
                self._store.config, self._views[view], entities, [field]
            )
        except Exception as error:
            reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
            raise Unavailable(f"the online store does not answer for {view}: {reason}") from error
        return [_stored(row, field) for row in rows]

    def read_cached(self, view: str, keys: Sequence[Key]) -> list[Stored]:
        """The value of each key, at most `CacheConfig.seconds` old."""
        now = time.monotonic()
        values = {key: self._cache.get(view, key, now) for key in keys}
        missed = [key for key, stored in values.items() if stored is None]
        if missed:
            for key, stored in zip(missed, self.read(view, missed), strict=True):
                values[key] = stored
                self._cache.put(view, key, stored, now)
        metrics.CACHE_READS.labels(view, "hit").inc(len(values) - len(missed))
        metrics.CACHE_READS.labels(view, "miss").inc(len(missed))
        return [values[key] or NOTHING for key in keys]

    def refresh(self) -> None:
        """Asks Feast's registry again what was materialized, once in `REGISTRY_SECONDS`.

        Values that were cached before a materialization are forgotten with it, so that none is
        older than `as_of_ms` says.

        Raises:
            Unavailable: the store was applied with another spec meanwhile.
        """
        if time.monotonic() - self._refreshed > REGISTRY_SECONDS:
            self._refreshed = time.monotonic()
            self._reload()
        try:
            self._check_spec()
        except ValueError as error:
            raise Unavailable(str(error)) from error

    def _check_spec(self) -> None:
        for name, view in self._views.items():
            applied = view.tags.get("spec_hash")
            if applied != self._spec.hash:
                raise ValueError(
                    f"{self._feast_dir}: feature view {name!r} was applied with spec {applied}, "
                    f"this one is {self._spec.name} ({self._spec.hash}); serve with the store's "
                    "spec"
                )

    def _reload(self) -> None:
        try:
            self._store.refresh_registry()
            views = self._store.list_feature_views(allow_cache=True)
        except Exception as error:
            # What was known a minute ago still serves; the store itself says whether it is there.
            logging.getLogger(__name__).warning("the Feast registry cannot be read: %s", error)
            return
        for view in views:
            if view.name in self._views:
                if _as_of_ms(view) != self.as_of_ms(view.name):
                    self._cache.forget(view.name)
                self._views[view.name] = view


def _as_of_ms(view: Any) -> int:
    return max((_milliseconds(end) for _, end in view.materialization_intervals), default=0)


def _view(store: Any, name: str, feast_dir: Path) -> Any:
    from feast.errors import FeatureViewNotFoundException

    try:
        return store.get_feature_view(name)
    except FeatureViewNotFoundException as error:
        raise ValueError(
            f"{feast_dir} has no feature view {name!r}; apply the Feast repository with this spec"
        ) from error


def _stored(row: tuple[datetime | None, dict[str, Any] | None], field: str) -> Stored:
    when, values = row
    if when is None or not values or field not in values:
        return NOTHING
    return Stored(values[field].bytes_val or None, _milliseconds(when))


def _milliseconds(when: datetime) -> int:
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
