# SPDX-License-Identifier: Apache-2.0
"""The predictor's flags become its limits; a mistake ends in one sentence and status 2."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from serving import server
from serving.predictor import process
from serving.predictor.predictor import Predictor
from tests.serving_builders import SmallRun


def test_flags_become_limits(small_run: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[Predictor, argparse.Namespace]] = []
    monkeypatch.setattr(server, "run", lambda *what: served.append(what))
    monkeypatch.setattr(process, "keep_freed_memory", lambda: True)
    flags = ["--model_dir", str(small_run.serving().model_dir), "--max_candidates", "9"]
    flags += ["--http_port", "0", "--grpc_port", "0", "--dtype", "bfloat16"]
    flags += ["--max_batch", "3", "--max_queue", "4", "--batch_window_ms", "0.5"]
    process.main([*flags, "--history_cache_mib", "2"])
    [(predictor, arguments)] = served
    assert arguments.host == "127.0.0.1"
    assert predictor.ready
    assert predictor.max_candidates == 9
    assert predictor.version == f"{small_run.day}-test"
    assert predictor.scoring.dtype == "bfloat16"
    assert predictor.scoring.history_cache_bytes == 2 * 2**20
    limits = predictor.batcher.config
    assert (limits.max_batch, limits.max_queue, limits.window_ms) == (3, 4, 0.5)
    assert predictor.batcher._thread._shutdown, "the thread ends with the server"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--max_queue", "0"], "predictor: --max_queue is 0, want 1 or more"),
        (["--batch_window_ms", "-1"], "predictor: the batch window is -1.0 ms, want 0 or more"),
        (["--history_cache_mib", "-1"], "predictor: the history cache has -1048576 bytes"),
        ([], "holds no model; register and promote one first"),
    ],
)
def test_a_mistake_is_one_sentence(
    flags: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "keep_freed_memory", lambda: True)
    usual = ["--model_dir", str(tmp_path), "--http_port", "0", "--grpc_port", "0"]
    with pytest.raises(SystemExit) as end:
        process.main([*usual, *flags])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_threads_are_torchs_where_a_number_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(process, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    usual = ["--model_dir", str(tmp_path), "--http_port", "0", "--grpc_port", "0"]
    for threads in ("0", "3"):
        with pytest.raises(SystemExit):
            process.main([*usual, "--torch_threads", threads])
    assert given == [3]


NEVER = """
import sys
import serving.predictor.process
print(*(name for name in ("feast", "kfp", "duckdb") if name in sys.modules))
"""


def test_it_loads_no_feature_store_and_no_pipelines() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NEVER], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == []
