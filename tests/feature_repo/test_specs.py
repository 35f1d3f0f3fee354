# SPDX-License-Identifier: Apache-2.0
"""The shipped specs: what each feature is counted over, and by which keys it is kept."""

from __future__ import annotations

import pytest

from feature_repo.kinds import Counter, Numeric
from feature_repo.spec import Spec
from feature_repo.specs import KUAIRAND, SIMULATOR, SPECS, WINDOWS, affinity, spec_by_name

BOTH = pytest.mark.parametrize("spec", [KUAIRAND, SIMULATOR], ids=lambda s: s.name)
KEYS = {
    "post_content": ("content", ("post_id",)),
    "post_popularity": ("counters", ("post_id",)),
    "actor_popularity": ("counters", ("actor_id",)),
    "member_activity": ("counters", ("member_id",)),
    "affinity": ("counters", ("member_id", "actor_id")),
    "member_profile": ("profile", ("member_id",)),
}


@BOTH
def test_every_view_has_its_keys_and_features_of_its_own(spec: Spec) -> None:
    assert {v.name: (v.kind, v.keys) for v in spec.views} == KEYS
    for view in spec.views:
        if view.kind != "content":
            assert view.features == tuple(f for f in spec.features if f.source == view.name)
    posts = tuple(f for f in spec.features if f.source == "post" and f.name != "post_id")
    assert spec.content.features == posts


@BOTH
def test_what_is_counted_is_an_action_of_the_spec(spec: Spec) -> None:
    actions = {f.name for f in spec.with_role("action")}
    for view in spec.views:
        for feature in view.features:
            assert (feature.counter is None) == (view.kind != "counters"), feature.name
            if feature.counter is None:
                continue
            assert feature.counter.of in actions | {"impression", "dwell"}, feature.name
            assert (feature.counter.dwell_ms is None) == (feature.counter.of != "dwell")
            transform = "identity" if feature.counter.rate else "log1p"
            assert feature.kind == Numeric(transform=transform), feature.name


@BOTH
def test_the_ranges_of_dwell_meet(spec: Spec) -> None:
    """Under 3 s, 3 to 10 s and over 30 s; the second ends where a long dwell begins."""
    for view in ("post_popularity", "actor_popularity"):
        counters = [f.counter for f in spec.view(view).features if f.counter is not None]
        ranges = [c.dwell_ms for c in counters if c.dwell_ms is not None]
        assert ranges == [(0, 3_000), (3_000, 10_000), (30_000, 2**31 - 1)]


@BOTH
def test_a_task_is_an_action_with_a_prior(spec: Spec) -> None:
    actions = {f.name for f in spec.with_role("action")}
    assert spec.task_names == ("click", "skip", "long_dwell", "like", "comment", "share")
    assert set(spec.task_names) < actions
    for task in spec.tasks:
        assert 0 < task.prior < 1
        assert (task.group == "passive") == (task.name in ("click", "skip", "long_dwell"))
        assert task.examined == (task.name != "skip")
        assert (task.utility < 0) == (task.name == "skip")


def test_affinity_is_seen_in_every_window() -> None:
    features = affinity((2, 9))
    assert [f.name for f in features] == [
        "affinity_impressions_2d",
        "affinity_long_dwell_2d",
        "affinity_impressions_9d",
        "affinity_long_dwell_9d",
        "affinity_likes_365d",
    ]
    assert features[1].counter == Counter(of="long_dwell", rate=True, days=2)
    assert len(SIMULATOR.view("affinity").features) == 2 * len(WINDOWS) + 1


def test_a_spec_is_found_by_its_name() -> None:
    for name, spec in (("kuairand", KUAIRAND), ("simulator", SIMULATOR)):
        assert spec_by_name(name) is SPECS[name] is spec
    with pytest.raises(ValueError, match="there is no spec 'Simulator'; have "):
        spec_by_name("Simulator")
