# SPDX-License-Identifier: Apache-2.0
"""What each step is given and what it reports; that it is told when it starts, ends or fails."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.console import parse_event
from components.layout.paths import Layout
from components.loop import steps
from components.loop.steps import ORDER, READERS, STEPS, run_step
from components.registry import versions
from components.registry.run import Run
from tests.loop_builders import tiny_config, tiny_log, write_config
from tests.run_builders import day_metrics, ranker_metrics, version_record

DAY = "2026-01-05"
CONFIG = tiny_config()
SPEC = CONFIG.spec
TASK = CONFIG.gate.task


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.at(tmp_path)


def replace(monkeypatch: pytest.MonkeyPatch, step: str, values: dict[str, Any]) -> list[Any]:
    """Puts a step in the place of one, which gives these values; what it was called with."""
    calls: list[Any] = []

    def stand_in(layout: Layout, day: str, config: object, **arguments: str) -> dict[str, Any]:
        calls.append((layout.root, day, arguments))
        return values

    monkeypatch.setitem(STEPS, step, stand_in)
    return calls


def events(text: str) -> list[dict[str, Any]]:
    return [event for line in text.splitlines() if (event := parse_event(line))]


def test_a_watched_step_is_told_when_it_starts_and_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], layout: Layout
) -> None:
    monkeypatch.setenv("FEEDSR_PROGRESS", "events")
    calls = replace(monkeypatch, "train", {"ranker": "dcnv2", "start": ""})
    values = run_step("train", str(layout.root), DAY, "demo", ranker="dcnv2")
    assert values == {"ranker": "dcnv2", "start": ""}
    assert calls == [(layout.root, DAY, {"ranker": "dcnv2"})]
    start, end = events(capsys.readouterr().out)
    assert start == {"event": "start", "step": "train-dcnv2"}
    assert (end["event"], end["step"], end["values"]) == ("end", "train-dcnv2", values)
    assert end["seconds"] >= 0


def test_a_failed_step_is_told_in_a_sentence_and_raises(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], layout: Layout
) -> None:
    monkeypatch.setenv("FEEDSR_PROGRESS", "events")
    with pytest.raises(ValueError, match="'today' is not a day"):
        run_step("gate", str(layout.root), "today", "demo")
    start, failed = events(capsys.readouterr().out)
    assert start["step"] == "gate"
    assert (failed["event"], failed["step"]) == ("failed", "gate")
    assert failed["message"].startswith("'today' is not a day")


def test_nobody_who_does_not_watch_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], layout: Layout
) -> None:
    monkeypatch.setenv("FEEDSR_PROGRESS", "off")
    replace(monkeypatch, "gate", {"verdict": "passed", "because": ""})
    run_step("gate", str(layout.root), DAY, "demo")
    assert capsys.readouterr().out == ""


def test_a_step_that_writes_holds_the_root_and_one_that_reads_does_not(
    monkeypatch: pytest.MonkeyPatch, layout: Layout
) -> None:
    held: list[str] = []

    def hold(root: Path, command: str) -> nullcontext[None]:
        held.append(command)
        return nullcontext()

    monkeypatch.setattr(steps, "writing", hold)
    for name in ("gate", *READERS):
        replace(monkeypatch, name, {})
        run_step(name, str(layout.root), DAY, "demo")
    replace(monkeypatch, "train", {})
    run_step("train", str(layout.root), DAY, "demo", ranker="feed_sr")
    assert held == [f"feedsr gate of {DAY}", f"feedsr train-feed_sr of {DAY}"]
    run_step("gate", str(layout.root / "absent"), DAY, "demo")
    assert len(held) == 2, "a root that is not there is not made by a lock"
    assert not (layout.root / "absent").exists()


def test_the_order_names_every_step_and_each_ranker_of_train() -> None:
    assert {name.partition("-")[0] for name in ORDER} == set(STEPS)
    trained = [name.partition("-")[2] for name in ORDER if name.startswith("train")]
    assert trained == list(CONFIG.rankers)
    assert len(set(ORDER)) == len(ORDER)


def test_ingest_backfills_sums_and_plans_and_does_the_last_day_again(tmp_path: Path) -> None:
    layout = tiny_log(tmp_path / "root", days=3)
    config = write_config(tmp_path / "loop.json", CONFIG)
    day = layout.raw_days()[-1]
    first = run_step("ingest", str(layout.root), day, config)
    assert first["days"] == 3
    assert first["read"] == first["kept"] + first["duplicates"] + first["quarantined"]  # type: ignore[operator]
    assert first["empty"] == ""
    assert first["plan"] == "cold start: there is no model in production"
    assert Run(layout, day).plan.reason == first["plan"]
    again = run_step("ingest", str(layout.root), day, config)
    assert again["days"] == 1
    assert again["read"] < first["read"]  # type: ignore[operator]


def test_each_ranker_is_trained_from_its_own_start(
    monkeypatch: pytest.MonkeyPatch, layout: Layout
) -> None:
    starts = []
    planned = SimpleNamespace(start=Path("/mine"), baseline_start=None)
    monkeypatch.setattr(steps, "plan", lambda *_, **__: planned)
    monkeypatch.setattr(
        "components.training.train.train", lambda *arguments: starts.append(arguments[3:])
    )
    warm = run_step("train", str(layout.root), DAY, "demo", ranker="feed_sr")
    cold = run_step("train", str(layout.root), DAY, "demo", ranker="dcnv2")
    assert starts == [("feed_sr", Path("/mine")), ("dcnv2", None)]
    assert (warm["start"], cold["start"]) == ("/mine", "")
    assert warm["folder"] == str(layout.model(DAY, "feed_sr"))


def test_evaluate_reports_the_gate_s_task_of_each_ranker_that_has_an_auc(
    monkeypatch: pytest.MonkeyPatch, layout: Layout, tmp_path: Path
) -> None:
    counts = {"log_loss": 0.5, "ece": 0.0, "n": 9, "positives": 3}
    aucs = {"feed_sr": 0.71239, "dcnv2": 0.5, "production": None}
    rankers = {name: ranker_metrics({TASK: {"auc": auc, **counts}}) for name, auc in aucs.items()}
    monkeypatch.setattr(
        "components.evaluation.evaluate.evaluate", lambda *_: day_metrics(SPEC, DAY, rankers)
    )
    config = write_config(tmp_path / "loop.json", CONFIG)
    values = run_step("evaluate", str(layout.root), DAY, config)
    assert list(values.items()) == [(f"dcnv2 {TASK} AUC", 0.5), (f"feed_sr {TASK} AUC", 0.7124)]


def test_an_older_day_never_takes_the_place_of_a_newer_one(layout: Layout) -> None:
    names = ["2026-01-04-aaaaaaaa", "2026-01-06-bbbbbbbb"]
    for name in names:
        record = version_record(SPEC, name)
        record.write(layout.registry / "versions" / name / "version.json")
    (layout.registry / "current").symlink_to(Path("versions") / names[1])
    values = run_step("promote", str(layout.root), DAY, "demo", version=names[0])
    assert values == {"version": names[1], "kept": f"it is newer than {names[0]}"}
    assert versions.current(layout) == names[1]


def test_a_day_without_metrics_of_this_spec_has_no_report(layout: Layout) -> None:
    assert run_step("report", str(layout.root), DAY, "demo") == {"report": ""}
    other = day_metrics(SPEC, DAY, {}, spec_hash="0" * 16)
    Run(layout, DAY).write(other)
    assert run_step("report", str(layout.root), DAY, "demo") == {"report": ""}
    assert not Run(layout, DAY).report.exists()
