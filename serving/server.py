# SPDX-License-Identifier: Apache-2.0
"""A KServe model server that binds where it is told and offers what is safe to offer.

KServe binds 0.0.0.0 without a flag for it, and lets whoever reaches a port unload the model. This
module changes those two things through KServe's own classes; it knows nothing of ranking.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import socket
import threading
import time
from concurrent import futures
from typing import Any

from grpc import RpcError, aio
from kserve import ModelServer, model_server
from kserve.errors import InvalidInput
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.server import GRPCServer

from serving.errors import Refused
from serving.protocol.data_plane import DataPlane, ServedModel
from serving.protocol.grpc_face import RefusalToStatus, Servicer
from serving.protocol.rest import application


class BoundGRPCServer(GRPCServer):
    """KServe's gRPC server on one address, without a log line per call."""

    def __init__(self, host: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._host = host

    async def start(self, max_workers: int) -> None:
        """Serves until stopped."""
        limits = ("grpc_max_send_message_length", "grpc_max_receive_message_length")
        self._server = aio.server(
            futures.ThreadPoolExecutor(max_workers=max_workers),
            interceptors=(RefusalToStatus(),),
            # Two servers must not share a port: calls would go to either model.
            options=[(name.replace("_", ".", 1), self._kwargs[name]) for name in limits]
            + [("grpc.so_reuseport", 0)],
        )
        grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            Servicer(self._data_plane, self._model_repository_extension), self._server
        )
        self._server.add_insecure_port(f"{self._host}:{self._port}")
        await self._server.start()
        await self._server.wait_for_termination()


class BoundServer(ModelServer):
    """REST and gRPC on `host`; KServe's flags for everything else."""

    def __init__(self, host: str, arguments: argparse.Namespace) -> None:
        super().__init__(
            http_port=arguments.http_port,
            grpc_port=arguments.grpc_port,
            enable_grpc=False,
            enable_latency_logging=False,
        )
        self.host = host
        self.dataplane = DataPlane(model_registry=self.registered_models)
        self.max_body = arguments.grpc_max_receive_message_length
        self._grpc_server = BoundGRPCServer(
            host,
            self.grpc_port,
            self.dataplane,
            self.model_repository_extension,
            kwargs=vars(arguments),
            grace_period=self.grace_period,
        )
        self.servers.append(self._grpc_server.start(self.max_threads))

    async def _serve(self) -> None:
        # The coroutines made by start() have not run yet, so both can still be set.
        self._rest_server.config.host = self.host
        self._rest_server.config.app = application(self.dataplane, self.max_body)
        # Everything loaded so far lives as long as the process: the collector need not walk it.
        gc.collect()
        gc.freeze()
        await super()._serve()


def parser(description: str) -> argparse.ArgumentParser:
    """KServe's flags, `--host`, and the service's name as the default model name."""
    arguments = argparse.ArgumentParser(description=description, parents=[model_server.parser])
    arguments.add_argument("--host", default="127.0.0.1", help="address to bind (0.0.0.0 in a pod)")
    arguments.add_argument(
        "--parent_pid", type=int, default=0, help="end when this process, the launcher, has ended"
    )
    arguments.set_defaults(model_name="feed-sr")
    return arguments


def check_flags(arguments: argparse.Namespace) -> None:
    """ValueError for a flag that means nothing here, and for a port that is taken."""
    if arguments.workers != 1:
        raise ValueError(
            f"--workers is {arguments.workers}, want 1: a model has one process; run more pods"
        )
    for name in ("max_candidates", "max_queue"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} is {getattr(arguments, name)}, want 1 or more")
    check_ports(arguments.host, arguments.http_port, arguments.grpc_port)


def check_ports(host: str, *ports: int) -> None:
    """ValueError if a port is taken, before anything is loaded."""
    for port in ports:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise ValueError(
                    f"cannot listen on {host}:{port}: {error.strerror}; choose another port"
                ) from error


NEWS = (InvalidInput, Refused, RpcError)


def _without_traceback(record: logging.LogRecord) -> bool:
    """A refused request is the caller's news: KServe logs it with a traceback, we with one line."""
    if record.exc_info and isinstance(record.exc_info[1], NEWS):
        error = record.exc_info[1]
        text = str(error.details()) if isinstance(error, aio.AioRpcError) else str(error)
        record.msg, record.args, record.exc_info = text, (), None
    return True


def _follow_parent(parent: int) -> None:
    """Ends this process as SIGTERM would once its parent is another; a killed launcher cannot."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def run(model: ServedModel, arguments: argparse.Namespace) -> None:
    """Serves the loaded model until SIGTERM; in-flight requests are answered first."""
    server = BoundServer(arguments.host, arguments)
    if arguments.parent_pid:
        _follow_parent(arguments.parent_pid)
    for name in ("kserve", "kserve.trace", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("kserve").addFilter(_without_traceback)
    server.start([model])
