# SPDX-License-Identifier: Apache-2.0
"""One entity for each key of the spec's views, named without its `_id`."""

from __future__ import annotations

import dataclasses

from feast import ValueType

from feature_repo.entities import DESCRIPTIONS, entities, entity
from feature_repo.specs import SIMULATOR


def test_every_key_has_one_entity() -> None:
    by_key = entities(SIMULATOR)
    assert list(by_key) == ["actor_id", "member_id", "post_id"]
    for key, declared in by_key.items():
        assert (declared.name, declared.join_key) == (key.removesuffix("_id"), key)
        assert declared.value_type == ValueType.INT64
        assert declared.description == DESCRIPTIONS[key]


def test_members_are_there_whatever_views_a_spec_has() -> None:
    """The history is theirs."""
    bare = dataclasses.replace(SIMULATOR, features=(), views=())
    assert list(entities(bare)) == ["member_id"]


def test_a_key_of_ones_own_needs_no_description() -> None:
    assert (entity("campaign_id").name, entity("campaign_id").description) == ("campaign", "")
