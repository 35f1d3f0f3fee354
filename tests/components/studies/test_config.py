# SPDX-License-Identifier: Apache-2.0
"""A study's configuration: the loop's, changed in one place, on a spec that lacks something."""

import pytest

from components.config import PROFILES, load_config
from components.studies.config import (
    changed,
    fused_early,
    starting_config,
    study_config,
    without_groups,
)
from components.studies.experiments import CONTEXT, POPULARITY
from feature_repo.kinds import HashedId
from feature_repo.specs import KUAIRAND
from tests.study_builders import SPLIT

CONFIG = study_config(load_config("kuairand"))


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_the_start_of_a_study_is_the_configuration_itself(name) -> None:
    config = load_config(name)
    study = study_config(config)
    assert study.spec == config.spec
    assert study.feed_sr == config.feed_sr
    assert study.cold == config.cold


def test_a_study_starts_from_the_named_configuration_or_the_logs_own() -> None:
    assert starting_config(SPLIT, "") == study_config(PROFILES["demo"])
    assert starting_config(SPLIT, "kuairand") == CONFIG
    with pytest.raises(ValueError, match="there is no configuration 'big'"):
        starting_config(SPLIT, "big")


def test_a_change_is_nested_and_leaves_the_rest() -> None:
    after = changed(CONFIG, {"feed_sr": {"head": {"name": "mlp"}}, "cold": {"epochs": 7}})
    assert after.feed_sr.head.name == "mlp"
    assert after.feed_sr.width == CONFIG.feed_sr.width
    assert after.feed_sr.head.width == CONFIG.feed_sr.head.width
    assert (after.cold.epochs, after.warm) == (7, CONFIG.warm)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"feed_sr": {"heads": 0}}, "heads"),
        ({"nothing": 1}, "nothing"),
        ({"cold": {"epoch": 1}}, "epoch"),
    ],
)
def test_a_change_that_is_none_is_refused(changes, what) -> None:
    with pytest.raises(ValueError, match=what):
        changed(CONFIG, changes)


def test_a_spec_without_a_group_lacks_its_features_and_no_other() -> None:
    spec = without_groups(KUAIRAND, ("affinity",))
    gone = {f.name for f in KUAIRAND.features} - {f.name for f in spec.features}
    assert gone == {f.name for f in KUAIRAND.view("affinity").features}
    assert spec.hash != KUAIRAND.hash
    assert spec.context_width == KUAIRAND.context_width - len(gone)
    with pytest.raises(ValueError, match="no group of features 'nothing'"):
        without_groups(KUAIRAND, ("nothing",))


def test_a_group_that_is_fused_early_leaves_the_context_and_is_nowhere_twice() -> None:
    spec = fused_early(KUAIRAND, POPULARITY)
    moved = {f.name for name in POPULARITY for f in KUAIRAND.view(name).features}
    assert {f.name for f in spec.fused_early} == moved
    assert spec.context_width == KUAIRAND.context_width - len(moved)
    assert not KUAIRAND.fused_early
    assert fused_early(KUAIRAND, CONTEXT).context_width == 0
    with pytest.raises(ValueError, match="no group of features 'ids'"):
        fused_early(KUAIRAND, ("ids",))


def test_a_spec_without_ids_keeps_the_columns_and_tells_no_two_posts_apart() -> None:
    spec = without_groups(KUAIRAND, ("ids",))
    assert spec.impression_schema == KUAIRAND.impression_schema
    kinds = [f.kind for f in spec.features if isinstance(f.kind, HashedId)]
    assert kinds
    assert {k.buckets for k in kinds} == {1}


def test_a_short_history_slides_in_blocks_that_fit_it() -> None:
    for length in (1, 10, 300):
        spec = changed(CONFIG, {"max_impressions": length}).spec
        assert spec.max_impressions == length
        assert 1 <= spec.block <= max(length // 4, 1)
