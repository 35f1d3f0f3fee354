# SPDX-License-Identifier: Apache-2.0
"""The context features of targets, as serving would have known them.

Two providers of one matrix: Feast's point-in-time join over the daily rows (training), and counting
over the log at any freshness (backtests). For freshness "day" they are equal. Neither reads
anything that became known after its target was served.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.features.counters import count_as_of
from components.features.store import quiet
from components.log.columns import Array, column, lookup, records
from feature_repo.spec import Freshness, Spec
from serving.assemble import context_matrix

JOIN_ROWS = 100_000
"""Targets in one point-in-time join; bounds the memory of the join."""


class Context(ABC):
    """Gives the context features of targets.

    Args:
        spec: names views and features.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    @abstractmethod
    def views(self, targets: pa.Table) -> dict[str, Array]:
        """The packed records of every view but the content, `[R]` each, as of the targets' times.

        Args:
            targets: R impressions with their content (`components.log.impressions.with_content`).
        """

    def matrix(self, targets: pa.Table) -> npt.NDArray[np.float32]:
        """Raw context features, float32 `[R, C]`, NaN where missing; `targets` as for `views`."""
        content = records(targets, self.spec.content)
        time_ms = column(targets, "event_time")
        return context_matrix(self.spec, self.views(targets), content, time_ms)


class PointInTimeContext(Context):
    """Context from Feast: the latest rows at or before each target's time.

    Args:
        store: the run's `feast.FeatureStore`, applied.
        spec: names views and features.
    """

    def __init__(self, store: Any, spec: Spec) -> None:
        super().__init__(spec)
        self.store = store
        self._joined = [v for v in spec.views if v.kind != "content"]

    def views(self, targets: pa.Table) -> dict[str, Array]:
        """See `Context.views`."""
        parts: dict[str, list[Array]] = {v.name: [v.default[:0]] for v in self._joined}
        for first in range(0, targets.num_rows, JOIN_ROWS):
            rows = self._join(targets.slice(first, JOIN_ROWS))
            for view in self._joined:
                values, _ = view.unpack(rows[f"{view.name}__packed"].to_pylist())
                parts[view.name].append(values)
        return {name: np.concatenate(values) for name, values in parts.items()}

    def _join(self, targets: pa.Table) -> pa.Table:
        """The packed values of every view, in the order of the targets."""
        from feast.errors import FeatureViewNotFoundException

        try:
            with quiet():
                job = self.store.get_historical_features(
                    entity_df=self._entities(targets),
                    features=[f"{view.name}:packed" for view in self._joined],
                    full_feature_names=True,
                )
                return job.to_arrow().sort_by("row")
        except FeatureViewNotFoundException as error:
            raise ValueError(
                f"{error}; run materialize first, it applies the repository"
            ) from error

    def _entities(self, targets: pa.Table) -> Any:
        """The keys of every view and the time of each target, as Feast takes them."""
        import pandas as pd

        keys = sorted({key for view in self._joined for key in view.keys})
        entities = pd.DataFrame({key: column(targets, key) for key in keys})
        time_ms = column(targets, "event_time")
        entities["event_timestamp"] = pd.to_datetime(time_ms, unit="ms", utc=True)
        entities["row"] = np.arange(len(entities))
        return entities


class AsOfContext(Context):
    """Context counted over the log as of each target's cutoff.

    Args:
        impressions: all of them with their content; only what arrived before a cutoff is used.
        members: `spec.member_schema`.
        spec: names views and features.
        freshness: how late serving is.
    """

    def __init__(
        self, impressions: pa.Table, members: pa.Table, spec: Spec, freshness: Freshness
    ) -> None:
        super().__init__(spec)
        self.impressions = impressions
        self.members = members
        self.freshness: Freshness = freshness

    def views(self, targets: pa.Table) -> dict[str, Array]:
        """See `Context.views`."""
        cutoff_ms = self.spec.cutoff(column(targets, "event_time"), self.freshness)
        views = {}
        for view in self.spec.views:
            if view.kind == "counters":
                keys = targets.select(list(view.keys))
                views[view.name] = count_as_of(self.impressions, view, keys, cutoff_ms, self.spec)
            elif view.kind == "profile":
                ids = column(targets, "member_id")
                views[view.name] = lookup(self.members, "member_id", ids, view)
        return views
