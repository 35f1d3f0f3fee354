# SPDX-License-Identifier: Apache-2.0
"""Feast entities: one for every key that a view of the spec has. Declarations only."""

from __future__ import annotations

from feast import Entity, ValueType

from feature_repo.spec import Spec

DESCRIPTIONS = {
    "member_id": "who the feed is for",
    "post_id": "what is shown",
    "actor_id": "who made or passed on the post",
    "root_actor_id": "who made the post that was passed on",
}


def entities(spec: Spec) -> dict[str, Entity]:
    """Entities by join key; the entity of `member_id` is called `member`."""
    keys = sorted({"member_id"} | {key for view in spec.views for key in view.keys})
    return {key: entity(key) for key in keys}


def entity(key: str) -> Entity:
    """The entity of one key column."""
    return Entity(
        name=key.removesuffix("_id"),
        join_keys=[key],
        value_type=ValueType.INT64,
        description=DESCRIPTIONS.get(key, ""),
    )
