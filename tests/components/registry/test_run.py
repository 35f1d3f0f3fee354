# SPDX-License-Identifier: Apache-2.0
"""A run's records are values on the way in and the same bytes on the way out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.layout.paths import Layout
from components.registry.gate import judge
from components.registry.json_record import RunRecord
from components.registry.metrics import DayMetrics, FeatureDrift
from components.registry.records import GateVerdict, Parity, Plan
from components.registry.run import Run
from feature_repo.specs import SIMULATOR
from tests.loop_builders import tiny_config
from tests.run_builders import MODEL, day_metrics, ranker_metrics

DAY = "2026-01-09"
TASK = {"auc": 0.75, "log_loss": 0.5, "ece": 0.0, "n": 900, "positives": 300}
BEFORE = {
    "gate.json": {
        "checks": [
            {"bound": "at least", "name": "rarer labels of click", "passed": True,
             "reason": "rarer labels of click is 300, at least 50 is asked", "threshold": 50,
             "value": 300.0},
            {"bound": "at most", "name": "log loss of click", "passed": False,
             "reason": "log loss of click could not be measured; it must be at most 6.93147",
             "threshold": 6.931471805599453, "value": None},
        ],
        "day": DAY, "model": MODEL, "passed": False,
    },
    "metrics.json": {
        "day": DAY,
        "drift": {
            "hour": {"edges": [1.0, 1.0000001192092896], "eval": [0.5, 0.25, 0.25, 0.0],
                     "numeric": False, "psi": None, "train": [0.0, 0.0, 0.0, 0.0]},
        },
        "freshness": "30m", "model": MODEL, "position": 5, "production": None,
        "production_note": "no model was in production",
        "rankers": {
            "feed_sr": {
                "calibration": {"click": {"count": [2, 0], "observed": [0.5, None],
                                          "predicted": [0.1, None]}},
                "scores": {"click": {"count": [1, 1], "edges": [-12.0, 0.0, 6.0],
                                     "positives": [0, 1]}},
                "segments": {"history 0 to 9": {"click": TASK}},
                "tasks": {"click": TASK},
                "within_member": {"click": {"auc": None, "impressions": 0, "members": 0}},
            },
        },
        "spec_hash": "6b0fc89a2ced4a7b",
    },
    "parity.json": {
        "bound": 1e-05, "candidates": 320, "day": DAY, "forward_difference": 7.592015449642275e-08,
        "logged": 3, "probes": 13, "requests": 16, "scored": 16,
        "served_difference": 6.714501521454252e-08, "skipped": {"other spec": 2},
    },
    "plan.json": {
        "after_day": "2026-01-07", "baseline_start": "runs/2026-01-08/dcnv2",
        "config": "d2ac2083d6a90771", "day": DAY, "production": "2026-01-08-811ac775",
        "reason": "warm start from 2026-01-08-811ac775, trained through 2026-01-07",
        "start": "registry/versions/2026-01-08-811ac775", "through_day": "2026-01-08",
    },
}  # fmt: skip
"""The files of a run as they were written before records were values."""
KINDS: list[type[RunRecord]] = [DayMetrics, GateVerdict, Parity, Plan]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(Layout.at(tmp_path), DAY)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.file)
def test_a_file_of_before_is_read_and_written_to_the_byte(run: Run, kind: type[RunRecord]) -> None:
    text = json.dumps(BEFORE[kind.file], indent=2, sort_keys=True) + "\n"
    run.folder.mkdir(parents=True)
    path = run.folder / kind.file
    path.write_text(text)
    record = run.read(kind)
    path.unlink()
    run.write(record)
    assert path.read_text() == text
    assert [p.name for p in run.folder.iterdir()] == [kind.file], "no temporary file is left"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.file)
def test_what_is_missing_or_damaged_is_one_sentence_with_a_way_out(
    run: Run, kind: type[RunRecord]
) -> None:
    path = run.folder / kind.file
    assert not run.holds(kind)
    with pytest.raises(ValueError, match="is missing") as missing:
        run.read(kind)
    assert str(missing.value) == f"{path} is missing: run feedsr {kind.step} --day {DAY} first"
    run.folder.mkdir(parents=True)
    whole = json.dumps(BEFORE[kind.file])
    for damaged in ("", whole[:-20], "[]", "{}", whole.replace('"day"', '"date"')):
        path.write_text(damaged)
        assert run.holds(kind)
        with pytest.raises(ValueError, match="is damaged") as told:
            run.read(kind)
        text = str(told.value)
        assert text.startswith(f"{path} is damaged: ")
        assert text.endswith(f"; remove it and run feedsr {kind.step} again")
        assert "\n" not in text


def test_a_name_that_no_record_has_is_told(run: Run) -> None:
    run.folder.mkdir(parents=True)
    body = {**BEFORE["gate.json"], "passes": True}  # type: ignore[dict-item]
    (run.folder / "gate.json").write_text(json.dumps(body))
    with pytest.raises(ValueError, match=r"gate\.json is damaged: passes: Extra inputs"):
        run.verdict  # noqa: B018


def test_each_record_has_its_property_and_the_plan_its_folders(run: Run) -> None:
    run.folder.mkdir(parents=True)
    for name, body in BEFORE.items():
        (run.folder / name).write_text(json.dumps(body))
    assert run.metrics == run.read(DayMetrics)
    assert run.verdict.reasons == (
        "log loss of click could not be measured; it must be at most 6.93147",
    )
    assert run.parity.skipped == {"other spec": 2}
    root = run.layout.root
    assert run.plan.start == root / "registry/versions/2026-01-08-811ac775"
    assert run.plan.baseline_start == root / "runs/2026-01-08/dcnv2"
    assert run.read(Plan).start == Path("registry/versions/2026-01-08-811ac775")


def test_a_cold_plan_has_no_folders(run: Run) -> None:
    cold = Plan.model_validate({**BEFORE["plan.json"], "start": None, "baseline_start": None})  # type: ignore[dict-item]
    run.write(cold)
    assert run.plan == cold


def test_a_record_is_not_changed_in_place(run: Run) -> None:
    record = Plan.model_validate(BEFORE["plan.json"])
    with pytest.raises(ValueError, match="frozen"):
        record.start = None  # type: ignore[misc]


def test_the_runs_of_a_root_are_those_that_were_evaluated_by_day(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    assert Run.evaluated(layout) == []
    for day in ("2026-01-10", "2026-01-08", "2026-01-09"):
        Run(layout, day).write(day_metrics(SIMULATOR, day, {}))
    layout.run("2026-01-11").mkdir()
    days = ["2026-01-08", "2026-01-09", "2026-01-10"]
    assert [each.day for each in Run.evaluated(layout)] == days
    assert [each.metrics.day for each in Run.evaluated(layout)] == days


def test_the_files_of_a_run_lie_where_they_lay(run: Run) -> None:
    assert run.folder == run.layout.root / "runs" / DAY
    assert (run.report.name, run.log.name) == ("report.html", "pipeline.log")
    assert run.report.parent == run.log.parent == run.folder
    assert sorted(kind.file for kind in KINDS) == sorted(BEFORE)


def test_the_features_that_moved_most_come_first_and_equals_by_name() -> None:
    def moved(psi: float | None) -> FeatureDrift:
        return FeatureDrift(psi=psi, numeric=True, edges=(), train=(1.0,), eval=(1.0,))

    drift = {"c": moved(0.1), "b": moved(0.3), "a": moved(0.1), "d": moved(None), "e": moved(0.0)}
    plain = {name: each.plain() for name, each in drift.items()}
    metrics = day_metrics(SIMULATOR, DAY, {}, drift=plain)
    assert [name for name, _ in metrics.most_moved(9)] == ["b", "a", "c", "d", "e"]
    assert metrics.most_moved(1) == [("b", drift["b"])]


@settings(deadline=None, max_examples=30)
@given(
    auc=st.none() | st.floats(0, 1),
    ece=st.none() | st.floats(0, 1),
    counts=st.lists(st.integers(0, 10**6), min_size=2, max_size=2).map(sorted),
)
def test_what_is_measured_and_judged_survives_the_disk(
    tmp_path_factory: pytest.TempPathFactory,
    auc: float | None,
    ece: float | None,
    counts: list[int],
) -> None:
    run = Run(Layout.at(tmp_path_factory.mktemp("run")), DAY)
    task = {**TASK, "auc": auc, "ece": ece, "positives": counts[0], "n": counts[1]}
    candidate = ranker_metrics({"long_dwell": task, "click": TASK})
    metrics = day_metrics(SIMULATOR, DAY, {"feed_sr": candidate})
    verdict = judge(metrics, tiny_config().gate)
    run.write(metrics)
    run.write(verdict)
    assert (run.metrics, run.verdict) == (metrics, verdict)
