# SPDX-License-Identifier: Apache-2.0
"""The transformer's flags become its limits; a mistake ends in one sentence and status 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from feature_repo.specs import SIMULATOR as SPEC
from serving import server
from serving.transformer import process
from serving.transformer.transformer import Transformer
from tests.serving_builders import SmallRun

PORTS = ["--http_port", "0", "--grpc_port", "0"]


def test_flags_become_limits(
    small_run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Transformer] = []
    monkeypatch.setattr(server, "run", lambda model, arguments: served.append(model))
    flags = ["--feast_dir", str(small_run.layout.feast), "--spec_name", SPEC.name]
    flags += ["--predictor_host", "127.0.0.1:9", "--max_candidates", "9", "--max_queue", "4"]
    flags += ["--predictor_timeout", "3", "--max_age_hours", "5", "--cache_seconds", "6"]
    flags += ["--cache_entries", "7", "--log_rate", "0.5", "--log_dir", str(tmp_path / "log")]
    process.main([*PORTS, *flags])
    [transformer] = served
    config = transformer.config
    assert transformer.ready
    assert (config.predictor_host, config.max_candidates) == ("127.0.0.1:9", 9)
    assert (config.max_queue, config.timeout, config.max_age_hours) == (4, 3.0, 5.0)
    assert (config.cache.seconds, config.cache.entries) == (6.0, 7)
    assert (config.log.rate, config.log_dir) == (0.5, tmp_path / "log")
    assert transformer._reader._shutdown, "the thread ends with the server"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "transformer: --predictor_host is missing; give the predictor's HOST:GRPC_PORT"),
        (["--predictor_host", "h:1", "--max_candidates", "0"], "--max_candidates is 0, want 1"),
        (["--predictor_host", "h:1"], "is no Feast repository; run the features step first"),
    ],
)
def test_a_mistake_is_one_sentence(
    flags: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = [*PORTS, "--feast_dir", str(tmp_path), "--spec_name", SPEC.name]
    with pytest.raises(SystemExit) as end:
        process.main([*usual, *flags])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


NEVER = """
import sys
import serving.transformer.process, serving.transformer.transformer
print("torch" in sys.modules, "feast" in sys.modules)
"""


def test_it_loads_no_torch_and_feast_when_it_reads() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NEVER], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ["False", "False"]
