# SPDX-License-Identifier: Apache-2.0
"""Feast feature views: one packed value per entity row for each view of the spec, and the history.

A value is one `Bytes` field because the cost of an online read follows the number of values.
Declarations only.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from feast import FeatureView, Field
from feast.types import Bytes, Int64

from feature_repo.entities import entities
from feature_repo.sources import Offline, push_source, rows_source
from feature_repo.spec import Spec

PACKED = "packed"
HISTORY = "history"
"""The history's view and its field."""

UNLIMITED = timedelta(0)
"""No TTL: a row holds until the next one; a row is written only where something changed."""


def feature_views(spec: Spec, root: Path, offline: Offline = "duckdb") -> list[FeatureView]:
    """The spec's views and the history, reading the run at `root`."""
    by_key = entities(spec)
    views = [
        FeatureView(
            name=view.name,
            entities=[by_key[key] for key in view.keys],
            schema=[Field(name=k, dtype=Int64) for k in view.keys]
            + [Field(name=PACKED, dtype=Bytes)],
            source=rows_source(view.name, root, offline=offline),
            ttl=UNLIMITED,
            tags=_tags(spec, view.kind),
        )
        for view in spec.views
    ]
    return [*views, history_view(spec, root, offline)]


def history_view(spec: Spec, root: Path, offline: Offline = "duckdb") -> FeatureView:
    """A member's window of impressions as one Arrow IPC value (serving/history.py)."""
    return FeatureView(
        name=HISTORY,
        entities=[entities(spec)["member_id"]],
        schema=[Field(name="member_id", dtype=Int64), Field(name=HISTORY, dtype=Bytes)],
        source=push_source(root, offline),
        ttl=UNLIMITED,
        tags=_tags(spec, "history"),
    )


def _tags(spec: Spec, kind: str) -> dict[str, str]:
    """What a view says to whoever reads the registry alone, as when its days end."""
    return {
        "spec": spec.name,
        "spec_hash": spec.hash,
        "kind": kind,
        "utc_offset_hours": str(spec.utc_offset_hours),
    }
