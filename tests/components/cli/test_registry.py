# SPDX-License-Identifier: Apache-2.0
"""The registry's commands: what is listed, deleted, promoted and taken back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from components.config import DailyConfig, load_config
from components.layout.files import write_json
from components.layout.paths import Layout
from components.registry import versions
from components.registry.gate import gate
from components.registry.run import Run
from tests.components.cli.conftest import Feedsr
from tests.run_builders import day_metrics, ranker_metrics

CONFIG = load_config("demo")
DAYS = ("2026-01-02", "2026-01-03", "2026-01-04", "2026-01-05")
GOOD = {"auc": 0.75, "log_loss": 0.5, "ece": 0.02, "n": 10_000, "positives": 3_000}


def registered(layout: Layout, day: str, auc: float = 0.75, config: DailyConfig = CONFIG) -> str:
    """A version of the day, judged by the gate."""
    folder = layout.model(day, "feed_sr")
    folder.mkdir(parents=True)
    weights = np.full((2, 2), DAYS.index(day), np.float32)
    save_file({"head.weight": weights}, folder / "model.safetensors")
    write_json(folder / "config.json", {"width": 2, "spec_hash": config.spec.hash})
    tasks = {name: {**GOOD, "auc": auc} for name in config.spec.task_names}
    rankers = {"feed_sr": ranker_metrics(tasks)}
    model = versions.model_hash(folder)
    Run(layout, day).write(day_metrics(config.spec, day, rankers, model=model))
    gate(layout, day, config)
    return versions.register(layout, day, config)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.at(tmp_path / "root")


def test_versions_are_listed_with_their_verdict_and_a_star(feedsr: Feedsr, layout: Layout) -> None:
    good = registered(layout, DAYS[0])
    bad = registered(layout, DAYS[1], auc=0.4)
    listed = f"  {good}  gate: passed\n  {bad}  gate: refused\n"
    assert feedsr("versions", "--root", layout.root).out == listed
    assert feedsr("promote", good, "--root", layout.root).out == f"{good} is in production\n"
    starred = listed.replace(f"  {good}", f"* {good}")
    assert feedsr("versions", "--root", layout.root).out == starred


def test_what_the_gate_refused_goes_to_production_by_force_alone(
    feedsr: Feedsr, layout: Layout
) -> None:
    bad = registered(layout, DAYS[0], auc=0.4)
    told = feedsr("promote", bad, "--root", layout.root).sentence
    assert told.startswith(f"the gate refused {bad}: ")
    assert versions.current(layout) is None
    assert feedsr("promote", bad, "--force", "--root", layout.root).status == 0
    assert versions.current(layout) == bad


def test_a_rollback_goes_to_the_version_before(feedsr: Feedsr, layout: Layout) -> None:
    first, second = (registered(layout, day) for day in DAYS[:2])
    for version in (first, second):
        assert feedsr("promote", version, "--root", layout.root).status == 0
    assert feedsr("rollback", "--root", layout.root).out == f"{first} is in production\n"
    assert versions.current(layout) == first


def test_pruning_says_what_is_gone_and_spares_production(feedsr: Feedsr, layout: Layout) -> None:
    names = [registered(layout, day) for day in DAYS]
    feedsr("promote", names[0], "--root", layout.root)
    ended = feedsr("versions", "--prune", "1", "--root", layout.root)
    gone = [f"{name} is deleted" for name in names[1:3]]
    kept = [f"* {names[0]}  gate: passed", f"  {names[3]}  gate: passed"]
    assert ended.out.splitlines() == [*gone, *kept]
    assert versions.versions(layout) == [names[0], names[3]]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["versions"], "has no version yet; run feedsr daily"),
        (["versions", "--prune", "2"], "has no version yet; run feedsr daily"),
        (["promote", "v9"], "has no version 'v9'"),
        (["rollback"], "no earlier version"),
    ],
)
def test_a_mistake_is_one_sentence(
    feedsr: Feedsr, tmp_path: Path, words: list[str], told: str
) -> None:
    assert told in feedsr(*words, "--root", tmp_path).sentence
