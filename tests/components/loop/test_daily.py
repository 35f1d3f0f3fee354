# SPDX-License-Identifier: Apache-2.0
"""The loop of a day through Kubeflow's real local runner, and what a person sees of it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from components.console import EVENT
from components.layout.paths import Layout
from components.loop.daily import LABEL_WIDTH, Watch, daily, summary
from components.loop.errors import StepError
from components.loop.serve import newest_posts, usual_request
from components.loop.steps import ORDER
from components.registry import versions
from components.registry.plan import plan
from components.registry.run import Run
from feature_repo.specs import SIMULATOR
from tests.loop_builders import tiny_config, tiny_log, write_config
from tests.path_builders import NAMES, around, nested


@pytest.mark.slow
def test_two_days_cold_then_warm_in_a_root_of_every_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole loop: Kubeflow's runner, Feast, duckdb, the servers and the report; its root's name
    holds what any of them might take for something of its own (tests/test_paths.py).
    """
    monkeypatch.setenv("EXPANDED", str(tmp_path / "expanded"))
    home = nested(tmp_path, NAMES)
    layout = tiny_log(home / "root {{$}}")
    config = tiny_config()
    (home / "settings {{$}}").mkdir()
    name = write_config(home / "settings {{$}}" / "loop $EXPANDED #.json", config)
    before = around(layout.root, tmp_path)
    first_day, second_day = layout.raw_days()[-2:]

    first = daily(layout, first_day, name)
    assert first.verdict == "passed"
    assert set(first.seconds) == set(ORDER)
    assert first.version == versions.current(layout)
    assert plan(layout, first_day, config).start is None

    second = daily(layout, second_day, name)
    planned = plan(layout, second_day, config)
    assert planned.start == versions.version_folder(layout, str(first.version))
    assert planned.after_day is not None
    assert second.version == versions.current(layout) != first.version
    assert versions.versions(layout) == [first.version, second.version]
    for result in (first, second):
        assert "<html" in result.report.read_text()
        assert Run(layout, result.day).parity.requests > 0
        metrics = Run(layout, result.day).metrics
        assert metrics.rankers["feed_sr"].tasks["click"].n > 0
    assert "production" in metrics.rankers
    assert len(newest_posts(layout, 1, 2**41, 5)) == 5
    assert set(usual_request(layout, SIMULATOR)) == {"surface"}
    assert around(layout.root, tmp_path) == before


@pytest.mark.slow
def test_a_failing_step_is_one_sentence_with_the_log(tmp_path: Path) -> None:
    layout = tiny_log(tmp_path / "root", days=3)
    name = write_config(tmp_path / "loop.json", tiny_config())
    day = layout.raw_days()[-1]
    layout.raw_day(day).write_bytes(b"this is no Parquet")
    with pytest.raises(StepError) as caught:
        daily(layout, day, name)
    text = str(caught.value)
    assert text.startswith(f"{day}: ingest: ")
    assert "pipeline.log" in text
    assert "\n" not in text
    assert "Traceback" in (layout.run(day) / "pipeline.log").read_text()


@pytest.mark.parametrize(
    ("day", "config", "told"),
    [
        ("5 Jan", "demo", "'5 Jan' is not a day"),
        ("2026-01-05", "nothing", "there is no configuration 'nothing'"),
        ("2026-01-05", "demo", "no log of 2026-01-05 .* have 2026-01-04 to 2026-01-04"),
        ("2026-01-04", "demo", "2026-01-04 is the first day of the log"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(
    tmp_path: Path, day: str, config: str, told: str
) -> None:
    layout = Layout.at(tmp_path)
    layout.raw_day("2026-01-04").parent.mkdir(parents=True)
    layout.raw_day("2026-01-04").touch()
    with pytest.raises(ValueError, match=told):
        daily(layout, day, config)
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


def watch(*lines: str) -> tuple[Watch, str]:
    log = io.StringIO()
    log.name = "runs/pipeline.log"
    watching = Watch("2026-01-05", log)
    for line in lines:
        watching.write(line + "\n")
    return watching, log.getvalue()


def event(**fields: object) -> str:
    return "    " + EVENT + json.dumps(fields)


def test_events_become_values_and_the_rest_is_logged() -> None:
    watching, log = watch(
        "noise of the runner",
        event(event="start", step="gate"),
        event(event="progress", label="gate", done=1, total=2),
        event(event="end", step="gate", seconds=0.5, values={"verdict": "passed", "because": ""}),
    )
    assert watching.values["gate"]["verdict"] == "passed"
    assert watching.seconds == {"gate": 0.5}
    assert "noise of the runner" in log
    assert "progress" not in log


def test_the_day_s_bar_counts_its_steps_and_a_step_s_own_bar_comes_and_goes() -> None:
    watching, _ = watch()
    (whole,) = watching._bars.tasks
    assert (whole.description.strip(), whole.completed) == ("2026-01-05", 0)
    assert whole.total == len(ORDER) == 13
    watching.write(event(event="start", step="ingest") + "\n")
    watching.write(event(event="progress", label="ingest, days", done=2, total=5) + "\n")
    whole, own = watching._bars.tasks
    assert (own.description.strip(), own.completed, own.total) == ("ingest, days", 2, 5)
    counts = {"read": 1, "kept": 1, "quarantined": 0, "days": 1, "empty": "", "plan": "cold"}
    watching.write(event(event="end", step="ingest", seconds=1.0, values=counts) + "\n")
    (whole,) = watching._bars.tasks
    assert whole.completed == 1
    assert all(len(step) < LABEL_WIDTH for step in ORDER)


def test_the_first_failure_is_the_one_that_is_told() -> None:
    watching, _ = watch(
        event(event="start", step="parity"),
        event(event="failed", step="parity", message="affinity differs"),
        event(event="start", step="report"),
        event(event="failed", step="report", message="no template"),
    )
    assert str(watching.failure()).startswith("2026-01-05: parity: affinity differs (log: ")


def test_a_step_that_was_killed_is_named() -> None:
    watching, _ = watch(event(event="start", step="train-feed_sr"))
    assert "train-feed_sr ended without a word" in str(watching.failure())


def test_an_output_line_may_arrive_in_pieces() -> None:
    watching, _ = watch()
    text = event(event="end", step="gate", seconds=1.0, values={"verdict": "x", "because": ""})
    watching.write(text[:20])
    assert not watching.values
    watching.write(text[20:] + "\n")
    assert watching.values["gate"]["verdict"] == "x"


def test_a_summary_says_why_a_gate_refused() -> None:
    values = {"verdict": "refused", "because": "AUC is 0.5"}
    assert summary("gate", values) == "refused - AUC is 0.5"


def test_a_path_in_a_summary_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """rich takes `[/red]` for the end of a colour, and `:smile:` for a picture."""
    path = "/x [/red] [bold] :smile:/report.html"
    watch(event(event="end", step="report", seconds=1.0, values={"report": path}))
    assert path in capsys.readouterr().err
