# SPDX-License-Identifier: Apache-2.0
"""What is needed stays, and a sentence says why; what a run needs after all is made anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.layout.paths import Layout
from components.log.checks import MAX_LATE_DAYS
from components.loop.prune import prune
from components.loop.retention import EVERY_DAY, joined_from, pruned_through, retention
from components.loop.steps import run_step
from components.registry import versions
from components.registry.plan import plan
from components.registry.run import Run
from components.studies.config import fused_early
from tests.loop_builders import write_config
from tests.retention_builders import CONFIG, SPEC, STEPS, counted, logged, promoted, run_day, tree


@pytest.fixture
def root(tmp_path: Path) -> tuple[Layout, list[str]]:
    """A root through whose last day features are built; no day was run."""
    layout, days = logged(tmp_path / "root", seed=5)
    counted(layout, days[-1])
    return layout, days


def why(layout: Layout, keep_days: int = 1) -> str:
    (sentence,) = retention(layout, SPEC, keep_days).why
    return sentence


def test_nothing_to_prune_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no ingested day, so there is nothing to prune"):
        retention(Layout.at(tmp_path), SPEC, 3)


def test_without_a_model_in_production_all_features_stay(root: tuple[Layout, list[str]]) -> None:
    layout, _ = root
    assert retention(layout, SPEC, 1).features_from == EVERY_DAY
    assert why(layout) == (
        "features are kept: the next run starts cold, as no model is in production"
    )
    before = tree(layout.root)
    prune(layout, CONFIG, 1)
    assert tree(layout.root) == before


def test_features_stay_as_far_back_as_the_versions_in_use_need(
    root: tuple[Layout, list[str]],
) -> None:
    layout, days = root
    before, version = promoted(layout, days[-3]), promoted(layout, days[-2])
    assert versions.in_use(layout) == [before, version]
    since = SPEC.days_after(days[-3], 1 - MAX_LATE_DAYS)
    assert retention(layout, SPEC, 1).features_from == since
    assert why(layout) == (
        f"features are kept from {since} on: a run that goes on from {before} takes what came up "
        "to 7 days late"
    )
    longer = retention(layout, SPEC, len(days) - 1)
    assert (longer.features_from, longer.why) == (days[1], ())
    assert retention(layout, SPEC, 36_500).features_from == days[0]


def test_the_late_rows_of_a_run_are_joined_on_days_that_stay() -> None:
    """An impression arrives at most seven days after the day that it was served on."""
    after = "2026-02-10"
    arrived = SPEC.days_after(after, 2)
    assert joined_from(after, SPEC) == SPEC.days_after(arrived, -MAX_LATE_DAYS)
    assert joined_from(None, SPEC) == EVERY_DAY
    early = fused_early(SPEC, ("affinity",))
    assert joined_from(after, early) == EVERY_DAY


def test_a_spec_that_fuses_context_early_keeps_all(root: tuple[Layout, list[str]]) -> None:
    layout, days = root
    promoted(layout, days[-1])
    kept = retention(layout, fused_early(SPEC, ("affinity",)), 1)
    assert kept.features_from == EVERY_DAY
    assert kept.why == ("features are kept: the spec joins them at every impression of a window",)


def test_a_run_that_was_not_promoted_keeps_what_it_joins(root: tuple[Layout, list[str]]) -> None:
    layout, days = root
    plan(layout, days[-1], CONFIG)
    assert why(layout) == (
        f"features are kept: the run of {days[-1]} starts cold, and is not promoted"
    )
    promoted(layout, days[-1])
    assert retention(layout, SPEC, 1).features_from > EVERY_DAY


def test_features_that_are_to_be_made_anew_stay(root: tuple[Layout, list[str]]) -> None:
    layout, days = root
    promoted(layout, days[-1])
    assert retention(layout, SPEC, 1).features_from > days[0]
    layout.impressions_day(days[1]).touch()
    assert why(layout) == ("features are kept: some are to be made anew; run feedsr features first")


def test_the_newest_run_and_the_models_that_a_run_starts_from_stay(
    root: tuple[Layout, list[str]],
) -> None:
    layout, days = root
    for day in days[-5:-2]:
        run_day(layout, day, ())
    kept = retention(layout, SPEC, 1)
    assert kept.first_day == days[-3]
    assert kept.model_days == {days[-3], days[-4]}


def test_a_damaged_version_in_use_is_refused(root: tuple[Layout, list[str]]) -> None:
    layout, days = root
    version = promoted(layout, days[-1])
    record = layout.registry / "versions" / version / "version.json"
    record.unlink()
    before = tree(layout.root)
    with pytest.raises(ValueError, match=f"{version} is in production and gone from"):
        prune(layout, CONFIG, 1)
    assert tree(layout.root) == before


def test_a_cold_start_has_the_pruned_days_made_anew(
    root: tuple[Layout, list[str]], tmp_path: Path
) -> None:
    layout, days = root
    promoted(layout, days[-2])
    before = tree(layout.root, "ledger")
    assert prune(layout, CONFIG, 1).sizes["features"].files
    pruned = pruned_through(layout, SPEC)
    assert days[0] < pruned < days[-2]
    wider = CONFIG.feed_sr.model_copy(update={"layers": CONFIG.feed_sr.layers + 1})
    config = write_config(tmp_path / "wider.json", CONFIG.model_copy(update={"feed_sr": wider}))
    words = str(layout.root), days[-1], config
    refused = (
        f"the run of {days[-1]} joins features of days through {pruned}, which were pruned; run "
        f"feedsr features --day {days[-1]} first, which makes them anew from the log"
    )
    with pytest.raises(ValueError, match=refused):
        run_step("sequences", *words)
    values = run_step("features", *words)
    assert values["days"] == len(days)
    assert str(values["made anew"]).startswith(
        f"the days through {pruned}, which were pruned: cold"
    )
    assert pruned_through(layout, SPEC) == ""
    after = tree(layout.root, "ledger")
    assert {name: after.get(name) for name in before if name.startswith("features/")} == {
        name: digest for name, digest in before.items() if name.startswith("features/")
    }
    assert "made anew" not in run_step("features", *words)


def test_a_warm_run_has_nothing_made_anew(root: tuple[Layout, list[str]]) -> None:
    layout, days = root
    promoted(layout, days[-2])
    prune(layout, CONFIG, 1)
    run_day(layout, days[-1], STEPS[:1])
    assert Run(layout, days[-1]).plan.after_day == days[-3]
    assert pruned_through(layout, SPEC) > days[0]
