# SPDX-License-Identifier: Apache-2.0
"""What the shared options stand for: a root's configuration, its last day, its one writer."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from components.cli.options import chosen_day, opened, opened_to_write, remember
from components.config import load_config
from components.layout.paths import Layout
from tests.components.cli.conftest import Feedsr, StandIn
from tests.loop_builders import tiny_config, tiny_log, write_config


def test_a_configuration_is_the_one_named_else_the_root_s_else_the_demo_s(tmp_path: Path) -> None:
    root = tmp_path / "root"
    layout, name, config = opened(root, "")
    assert (layout, name, config) == (Layout.at(root), "demo", load_config("demo"))
    remember(layout, "kuairand")
    assert opened(root, "")[1:] == ("kuairand", load_config("kuairand"))
    assert opened(root, "demo")[1:] == ("demo", load_config("demo"))


def test_a_file_is_remembered_from_wherever_the_next_command_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path / "mine.json", tiny_config())
    monkeypatch.chdir(tmp_path)
    layout = Layout.at(tmp_path / "root")
    remember(layout, "mine.json")
    monkeypatch.chdir("/")
    assert opened(layout.root, "")[2] == tiny_config()


@pytest.mark.parametrize("text", ["{}", "[]", "half {"])
def test_a_damaged_note_of_the_configuration_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="damaged; say --config"):
        opened(tmp_path, "")
    assert opened(tmp_path, "demo")[1] == "demo"


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
        opened(tmp_path, str(path))


def test_the_day_is_the_one_named_else_the_log_s_last(tmp_path: Path) -> None:
    empty = Layout.at(tmp_path / "none")
    assert chosen_day(empty, "2026-01-05") == "2026-01-05"
    with pytest.raises(ValueError, match=r"there is no log under .*none; run feedsr simulate"):
        chosen_day(empty, "")
    layout = tiny_log(tmp_path / "root", days=2)
    assert chosen_day(layout, "") == layout.raw_days()[1]


def test_the_environment_names_root_and_configuration(
    feedsr: Feedsr, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = stand_in("components.loop.serve.serve")
    monkeypatch.setenv("FEEDSR_ROOT", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("FEEDSR_CONFIG", "kuairand")
    assert feedsr("serve").status == 0
    assert feedsr("serve", "--root", tmp_path, "--config", "demo").status == 0
    assert [call["layout"].root for call in calls] == [tmp_path / "elsewhere", tmp_path]
    assert [call["config"].spec_name for call in calls] == ["kuairand", "simulator"]


HOLD = """
import sys
from pathlib import Path
from components.layout.writer import writing
with writing(Path(sys.argv[1]), "feedsr daily of 2026-01-05"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_root_that_another_writes_into_is_refused_in_one_sentence(
    feedsr: Feedsr, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        for words in (["rollback"], ["promote", "v1"], ["simulate", "--days", "2"]):
            told = feedsr(*words, "--root", tmp_path).sentence
            assert "is being written to by feedsr daily of 2026-01-05" in told
            assert f"process {other.pid}" in told
        other.communicate("", timeout=30)


def test_a_root_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with opened_to_write(tmp_path / "none", "feedsr rollback") as layout:
        assert layout.root == tmp_path / "none"
    assert not (tmp_path / "none").exists()
