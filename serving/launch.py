# SPDX-License-Identifier: Apache-2.0
"""Starts the predictor and the transformer as processes of this machine, and stops them.

Each is stopped by its own id. It knows paths, ports and readiness; it imports neither model nor
store. A cluster has its own way (see manifests).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
NAME = "feed-sr"
LOG_BYTES = 16 * 2**20
"""What a server's output file may grow to before it is emptied."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What to serve, and where.

    Attributes:
        model_dir: a version's folder, or a link to one (`registry/current`).
        feast_dir: the rendered Feast repository.
        log_dir: folder of the request log; None logs none.
        http_port: the transformer's port for V1 JSON; 0 takes a free one. Every other port is a
            free one.
        grpc_port: the transformer's port for V2 gRPC; 0 takes a free one.
        timeout: most seconds until both are ready.
        dtype: what the predictor's model computes in.
        predictor_flags: more flags for the predictor.
        transformer_flags: more flags for the transformer.
    """

    model_dir: Path
    feast_dir: Path
    spec_name: str
    log_dir: Path | None = None
    max_candidates: int = 512
    dtype: str = "float32"
    http_port: int = 0
    grpc_port: int = 0
    timeout: float = 120.0
    predictor_flags: tuple[str, ...] = ()
    transformer_flags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Server:
    """A process that serves.

    Attributes:
        log: the file its output goes to.
    """

    name: str
    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    log: Path

    @property
    def url(self) -> str:
        """The base of its HTTP addresses."""
        return f"http://{HOST}:{self.http_port}"

    @property
    def grpc(self) -> str:
        """Its gRPC address, host:port."""
        return f"{HOST}:{self.grpc_port}"

    def ready(self) -> bool:
        """Whether its model answers as ready."""
        try:
            with urllib.request.urlopen(f"{self.url}/v2/models/{NAME}/ready", timeout=2) as reply:
                return reply.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def stop(self, grace: float = 35.0) -> None:
        """SIGTERM to this process alone, SIGKILL if it has not ended after `grace` seconds."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(grace)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def trim(self, limit: int = LOG_BYTES) -> None:
        """Empties its output file once that is larger than `limit` bytes."""
        if self.log.stat().st_size > limit:
            os.truncate(self.log, 0)

    def tail(self, lines: int = 8) -> str:
        """The last lines of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A predictor and the transformer before it, both ready."""

    predictor: Server
    transformer: Server


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that were free a moment ago, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in sockets]


@contextmanager
def launch(serving: Serving) -> Iterator[Pair]:
    """Both processes, ready; stopped when the block ends.

    Raises:
        ValueError: a port is in use, or a process ended or was not ready in time; with the end of
            its output.
    """
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="feedsr-serving-")))
        predictor = start_predictor(serving, logs)
        stack.callback(predictor.stop)
        transformer = start_transformer(serving, predictor.grpc, logs)
        stack.callback(transformer.stop)
        wait_ready([predictor, transformer], serving.timeout)
        yield Pair(predictor=predictor, transformer=transformer)


def start_predictor(serving: Serving, logs: Path) -> Server:
    """The predictor's process, not yet ready."""
    flags = ["--model_dir", str(serving.model_dir), "--dtype", serving.dtype]
    flags += serving.predictor_flags
    return _start("predictor", [*_limits(serving), *flags], free_ports(2), logs)


def start_transformer(serving: Serving, predictor: str, logs: Path) -> Server:
    """The transformer's process before the predictor at `predictor` (host:port), not yet ready."""
    flags = ["--feast_dir", str(serving.feast_dir), "--spec_name", serving.spec_name]
    flags += ["--predictor_host", predictor]
    if serving.log_dir is not None:
        flags += ["--log_dir", str(serving.log_dir)]
    http, grpc = free_ports(2)
    ports = [serving.http_port or http, serving.grpc_port or grpc]
    flags += serving.transformer_flags
    return _start("transformer", [*_limits(serving), *flags], ports, logs)


def wait_ready(servers: Sequence[Server], timeout: float) -> None:
    """Returns when all are ready; ValueError with the end of the output of one that is not."""
    end = time.monotonic() + timeout
    for server in servers:
        while True:
            if server.process.poll() is not None:
                raise ValueError(f"the {server.name} did not start: {server.tail()}")
            if server.ready():
                break
            if time.monotonic() > end:
                raise ValueError(
                    f"the {server.name} was not ready after {timeout:.0f} s: {server.tail()}"
                )
            time.sleep(0.05)


def _limits(serving: Serving) -> list[str]:
    return ["--max_candidates", str(serving.max_candidates)]


def _start(name: str, flags: Sequence[str], ports: Sequence[int], logs: Path) -> Server:
    """A process of `serving.<name>` in a session of its own: Ctrl-C reaches it through us alone."""
    for port in ports:
        _check_free(port)
    http, grpc = ports
    places = ["--host", HOST, "--http_port", str(http), "--grpc_port", str(grpc)]
    places += ["--parent_pid", str(os.getpid())]
    log = logs / f"{name}-{http}.log"
    # Run from wherever the packages were imported from, installed or not.
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    # Appending, so that the file can be emptied while the process writes.
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", f"serving.{name}", "--model_name", NAME, *places, *flags],
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
    return Server(name=name, process=process, http_port=http, grpc_port=grpc, log=log)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ValueError(
                f"port {port} of {HOST} is in use; stop what listens there or choose another port"
            ) from error
