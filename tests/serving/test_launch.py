# SPDX-License-Identifier: Apache-2.0
"""Starting and stopping: a taken port, a missing model, a lost process end in one sentence."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from serving.launch import HOST, free_ports, launch, start_predictor, wait_ready
from serving.server import check_ports
from tests.serving_builders import SmallRun, noisy_ranker


def test_free_ports_are_different() -> None:
    assert len(set(free_ports(20))) == 20


def test_a_port_in_use_is_one_sentence(small_run: SmallRun) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ValueError, match=f"port {port} of {HOST} is in use"),
            launch(small_run.serving(http_port=port)),
        ):
            pass
        with pytest.raises(ValueError, match=f"cannot listen on {HOST}:{port}"):
            check_ports(HOST, port)


def test_a_grpc_port_that_was_taken_while_loading_ends_the_server(
    small_run: SmallRun, tmp_path: Path
) -> None:
    """Not two servers behind one port."""
    with launch(small_run.serving()) as pair:
        port = pair.predictor.grpc_port
        command = [sys.executable, "-c", TAKEN, "--model_dir", str(small_run.serving().model_dir)]
        command += ["--http_port", str(free_ports(1)[0]), "--grpc_port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode != 0
    assert str(port) in done.stdout + done.stderr


TAKEN = """
import sys
from serving import server
from serving.predictor import process
server.check_ports = lambda *_: None
process.main(sys.argv[1:])
"""


def test_the_output_file_is_bounded(small_run: SmallRun, tmp_path: Path) -> None:
    server = start_predictor(replace(small_run.serving(), model_dir=tmp_path), tmp_path)
    server.process.wait(60)
    size = server.log.stat().st_size
    server.trim(size)
    assert server.log.stat().st_size == size > 0
    server.trim(size - 1)
    assert server.log.stat().st_size == 0


def test_a_missing_model_is_one_sentence(small_run: SmallRun, tmp_path: Path) -> None:
    serving = replace(small_run.serving(), model_dir=tmp_path / "nothing")
    server = start_predictor(serving, tmp_path)
    with pytest.raises(ValueError, match=r"the predictor did not start.*holds no model"):
        wait_ready([server], 60)
    assert server.process.returncode == 2


def test_a_damaged_model_is_refused_before_the_port_opens(
    small_run: SmallRun, tmp_path: Path
) -> None:
    from model.checkpoint import save_model

    folder = tmp_path / "model"
    save_model(folder, noisy_ranker(small_run.config.spec), {"freshness": "day"})
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    server = start_predictor(replace(small_run.serving(), model_dir=folder), tmp_path)
    with pytest.raises(ValueError, match="damaged"):
        wait_ready([server], 60)


def test_a_model_that_forgot_its_freshness_is_refused(small_run: SmallRun, tmp_path: Path) -> None:
    from model.checkpoint import save_model

    save_model(tmp_path / "model", noisy_ranker(small_run.config.spec), {})
    server = start_predictor(replace(small_run.serving(), model_dir=tmp_path / "model"), tmp_path)
    with pytest.raises(ValueError, match="freshness None"):
        wait_ready([server], 60)


def test_not_ready_in_time_shows_the_log_and_stop_ends_the_process(
    small_run: SmallRun, tmp_path: Path
) -> None:
    server = start_predictor(small_run.serving(), tmp_path)
    try:
        with pytest.raises(ValueError, match="was not ready after 0 s"):
            wait_ready([server], 0.0)
    finally:
        start = time.monotonic()
        server.stop()
    assert server.process.poll() is not None
    assert time.monotonic() - start < 35
    assert not server.ready()


ORPHAN = """
import sys, time
from pathlib import Path
from serving.launch import Serving, start_predictor, wait_ready
folder = Path(sys.argv[2])
serving = Serving(model_dir=Path(sys.argv[1]), feast_dir=folder, spec_name="simulator")
server = start_predictor(serving, folder)
wait_ready([server], 120)
print(server.process.pid, flush=True)
time.sleep(600)
"""


def test_a_launcher_that_is_killed_leaves_no_server_behind(
    small_run: SmallRun, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", ORPHAN, str(small_run.serving().model_dir), str(tmp_path)]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    server = int(launcher.stdout.readline())
    launcher.kill()
    launcher.communicate()
    end = time.monotonic() + 30
    while running(server) and time.monotonic() < end:
        time.sleep(0.1)
    assert not running(server)


def running(pid: int) -> bool:
    """Whether a process runs; one that ended and waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
