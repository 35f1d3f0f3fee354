# SPDX-License-Identifier: Apache-2.0
"""The command line: every command is there and answers at once; a mistake is one sentence."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.cli.options import opened
from components.config import load_config
from components.layout.paths import Layout

COMMANDS = """backtest daily demo evaluate features gate histories import ingest materialize parity
pipeline promote rank register report rollback sequences serve simulate submit train versions"""


def feedsr(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from components.cli.main import main; main()", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "FEEDSR_PROGRESS": "off", **environment},
    )


def test_help_lists_every_command_at_once() -> None:
    best = 9.0
    for _ in range(3):
        started = time.perf_counter()
        result = feedsr("--help")
        best = min(best, time.perf_counter() - started)
    assert result.returncode == 0
    for command in COMMANDS.split():
        assert f"  {command} " in result.stdout
    assert best < 1.0


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, components.cli.main; "
        "print([m for m in ('torch', 'feast', 'kfp', 'kserve', 'pyarrow') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["daily"], "there is no log under"),
        (["ingest", "--day", "2026-01-05"], "no log of 2026-01-05"),
        (["gate", "--day", "2026-01-05"], "evaluate 2026-01-05 before its gate"),
        (["gate", "--day", "yesterday"], "'yesterday' is not a day"),
        (["versions"], "has no version yet"),
        (["promote", "v9"], "has no version 'v9'"),
        (["rollback"], "no earlier version"),
        (["rank", "--member", "1"], "run feedsr daily first"),
        (["rank", "--candidates", "a,b"], "want post ids with commas"),
        (["serve", "--port", "0"], "no model in production"),
        (["train", "--ranker", "bert"], "there is no ranker 'bert'"),
        (["import", "nowhere"], "there is no folder nowhere"),
        (["simulate", "--config", "kuairand"], "not for the simulator"),
        (["evaluate", "--day", "2026-01-05", "--config", "x"], "there is no configuration 'x'"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, words: list[str], told: str) -> None:
    result = feedsr(*words, "--root", str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.startswith("feedsr: ")
    assert told in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    result = feedsr("submit", "--day", "2026-01-05", "--host", "http://127.0.0.1:9")
    assert result.returncode == 1
    assert "http://127.0.0.1:9 did not take the run" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_command_line_that_cannot_be_parsed_is_two() -> None:
    assert feedsr("daily", "--nothing").returncode == 2
    assert feedsr("nothing").returncode == 2
    assert feedsr("serve", "--port", "65536").returncode == 2


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    root = str(tmp_path / "file" / "root")
    result = feedsr("simulate", "--days", "2", "--members", "10", "--root", root)
    assert result.returncode == 1
    assert f"{tmp_path / 'file'}" in result.stderr
    assert "not a directory; look at the path" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"gate": {"max_auc_dorp": 0.1}}, "gate.max_auc_dorp: Extra inputs are not permitted"),
        ({"gate": {"max_auc_drop": -0.1}}, "gate.max_auc_drop: Input should be greater than"),
        ({"gate": {"min_auc": float("nan")}}, "gate.min_auc: Input should be a finite number"),
        ({"gate": {"min_positives": 0}}, "gate.min_positives: Input should be greater than"),
        ({"gate": {"task": "lick"}}, "gate.task: there is no 'lick'; have click"),
        ({"spec_name": "mine"}, "there is no spec 'mine'"),
        ({"cold": {"learning_rate": float("inf")}}, "cold.learning_rate: Input should be a finite"),
    ],
)
def test_a_wrong_setting_is_told_before_anything_runs(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    whole = {"spec_name": "simulator", "feed_sr": {"width": 16, "layers": 1, "heads": 1}}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**whole, "dcnv2": {}, **change}))
    with pytest.raises(ValueError, match=re.escape(told)):
        load_config(str(path))


def test_a_trace_can_be_asked_for(tmp_path: Path) -> None:
    result = feedsr("versions", "--root", str(tmp_path), FEEDSR_TRACE="1")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_a_root_remembers_its_configuration(tmp_path: Path) -> None:
    root = tmp_path / "root"
    made = feedsr(
        *("simulate", "--days", "2", "--members", "20", "--impressions", "400"),
        *("--root", str(root)),
    )
    assert made.returncode == 0, made.stderr
    assert "impressions of 20 members" in made.stdout
    assert json.loads((root / "config.json").read_text())["config"] == "demo"
    day = Layout.at(root).raw_days()[-1]
    done = feedsr("ingest", "--root", str(root))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"ingest {day}: 2 days")


@pytest.mark.parametrize("text", ["{}", "[]", "half {"])
def test_a_damaged_note_of_the_configuration_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="damaged; say --config"):
        opened(tmp_path, "")
    assert opened(tmp_path, "demo")[1] == "demo"


def test_pipeline_is_compiled_where_asked(tmp_path: Path) -> None:
    out = tmp_path / "build" / "pipeline.yaml"
    assert feedsr("pipeline", "--out", str(out)).returncode == 0
    assert "feedsr-daily" in out.read_text()
