# SPDX-License-Identifier: Apache-2.0
"""A trial's configuration: the daily loop's, and what only a study varies.

Knows how a spec is cut down; does not know which variations a study wants.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from components.backtest.prepare import config_for
from components.backtest.split import LogSplit
from components.config import DailyConfig
from feature_repo.kinds import Feature, HashedId
from feature_repo.spec import Freshness, Spec
from feature_repo.specs import spec_by_name

IDS = "ids"
"""The group of hashed ids: posts and actors without a name, known by their features alone."""
AGE = "age"
"""The group of the post's age alone."""


class StudyConfig(DailyConfig):
    """A daily configuration on a spec that may lack something.

    Attributes:
        without: groups of features left out: views by name, or "ids".
        early: groups of features that each impression's token carries, instead of the head: views
            by name, or "age".
        max_impressions: T, the longest history; None is the spec's own.
        train_freshness: how fresh the training's histories and features are; None is `freshness`,
            with which the test ranks.
    """

    without: tuple[str, ...] = ()
    early: tuple[str, ...] = ()
    max_impressions: int | None = Field(None, ge=1)
    train_freshness: Freshness | None = None

    @property
    def spec(self) -> Spec:
        """The spec by name, cut down."""
        spec = without_groups(spec_by_name(self.spec_name), self.without)
        spec = fused_early(spec, self.early)
        if self.max_impressions is None:
            return spec
        block = min(spec.block, max(self.max_impressions // 4, 1))
        return dataclasses.replace(spec, max_impressions=self.max_impressions, block=block)


def study_config(config: DailyConfig) -> StudyConfig:
    """The same configuration as the start of a study."""
    return StudyConfig.model_validate(config.model_dump())


def starting_config(split: LogSplit, name: str) -> StudyConfig:
    """The configuration of that name, or the shipped one for the kind of log; a study's start.

    Raises:
        ValueError: there is none, or the log's kind has none and none was named.
    """
    return study_config(config_for(split, name))


def changed(config: StudyConfig, changes: Mapping[str, Any]) -> StudyConfig:
    """The configuration with some values replaced, nested as they are in its JSON.

    Raises:
        ValueError: a value has no such name or is out of its bounds.
    """
    return StudyConfig.model_validate(merged(config.model_dump(), changes))


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The old values with the new ones in their places, at any depth."""
    both = dict(old)
    for name, value in new.items():
        inner = isinstance(value, Mapping) and isinstance(old.get(name), Mapping)
        both[name] = merged(old[name], value) if inner else value
    return both


def without_groups(spec: Spec, groups: tuple[str, ...]) -> Spec:
    """The spec without some groups of features; a view that is left empty goes too.

    Raises:
        ValueError: the spec has no such group.
    """
    _check_groups(spec, groups, IDS)
    if not groups:
        return spec
    kept = tuple(_without_ids(f, groups) for f in spec.features if f.source not in groups)
    content = tuple(_without_ids(f, groups) for f in spec.content.features)
    views = tuple(
        dataclasses.replace(v, features=content) if v.kind == "content" else v
        for v in spec.views
        if v.name not in groups
    )
    return dataclasses.replace(spec, features=kept, views=views)


def fused_early(spec: Spec, groups: tuple[str, ...]) -> Spec:
    """The spec with some groups of context features as sequence features.

    An impression's token carries what was known when it was served, and the head does not get it
    again.

    Raises:
        ValueError: the spec has no such group.
    """
    _check_groups(spec, groups, AGE)
    features = tuple(
        dataclasses.replace(f, role="sequence") if f.source in groups else f for f in spec.features
    )
    return dataclasses.replace(spec, features=features)


def _check_groups(spec: Spec, groups: tuple[str, ...], other: str) -> None:
    known = {other, *(v.name for v in spec.views if v.kind != "content")}
    for group in groups:
        if group not in known:
            raise ValueError(f"there is no group of features {group!r}; have {sorted(known)}")


def _without_ids(feature: Feature, groups: tuple[str, ...]) -> Feature:
    """The feature; without ids, all in one bucket, because joins still want the column."""
    if IDS in groups and isinstance(feature.kind, HashedId):
        return dataclasses.replace(feature, kind=dataclasses.replace(feature.kind, buckets=1))
    return feature
