# SPDX-License-Identifier: Apache-2.0
import pytest

from components.config import PROFILES, load_config
from components.studies.ablate import chosen
from components.studies.config import changed, fused_early, study_config, without_groups
from components.studies.experiments import ABLATION, CONTEXT, POPULARITY, with_references
from components.studies.trial import Log
from feature_repo.kinds import HashedId
from feature_repo.specs import KUAIRAND
from model.accounting import hstu_layers_per_block

CONFIG = study_config(load_config("kuairand"))
SIMULATED = Log(data="sim:1000", train_before="2026-01-12", test_through="2026-01-13")
EXPERIMENTS = [*chosen(SIMULATED, []), *(e for e in ABLATION if "simulator" not in e.logs)]
"""All, told what they need to know of a log."""


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_the_start_of_a_study_is_the_configuration_itself(name) -> None:
    config = load_config(name)
    study = study_config(config)
    assert study.spec == config.spec
    assert study.feed_sr == config.feed_sr
    assert study.cold == config.cold


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.row)
def test_every_experiment_is_a_configuration_of_its_own(experiment) -> None:
    for kind in experiment.logs:
        start = changed(
            study_config(load_config("demo" if kind == "simulator" else kind)), experiment.base
        )
        assert changed(start, experiment.changes) != start


def test_no_two_experiments_are_the_same_trial() -> None:
    assert len(EXPERIMENTS) == len(ABLATION)
    rows = with_references(EXPERIMENTS)
    configs = [changed(changed(CONFIG, e.base), e.changes).model_dump_json() for e in rows]
    assert len(set(configs)) == len(rows) == len({e.row for e in rows})


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
    assert spec.event_schema == KUAIRAND.event_schema
    kinds = [f.kind for f in spec.features if isinstance(f.kind, HashedId)]
    assert kinds
    assert {k.buckets for k in kinds} == {1}


def test_a_short_history_slides_in_blocks_that_fit_it() -> None:
    for length in (1, 10, 300):
        spec = changed(CONFIG, {"max_impressions": length}).spec
        assert spec.max_impressions == length
        assert 1 <= spec.block <= max(length // 4, 1)


@pytest.mark.parametrize(("name", "impressions"), [("kuairand", 35), ("demo", 85)])
def test_as_many_hstu_layers_as_cost_the_default_s_blocks(name, impressions) -> None:
    """At the mean length of a training sequence of each log, about."""
    blocks = [e.changes["feed_sr"] for e in ABLATION if e.part == "block"]
    assert [b["block"] for b in blocks] == ["hstu_published", "hstu"]
    shape = load_config(name).feed_sr
    matched = shape.layers * hstu_layers_per_block(shape, impressions)
    assert [b["layers"] for b in blocks] == [round(matched)] * 2


def test_the_papers_figure_stands_beside_the_published_block_alone() -> None:
    papers = {e.changes["feed_sr"]["block"]: e.paper for e in ABLATION if e.part == "block"}
    assert papers == {"hstu_published": -0.23, "hstu": None}
