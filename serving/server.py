# SPDX-License-Identifier: Apache-2.0
"""A KServe model server that binds where it is told, and answers bad input with 400 in its protocol
layer too.

KServe binds 0.0.0.0 without a flag for it, and lets a malformed binary header end as 500. This
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
from kserve import Model, ModelServer, model_server
from kserve.errors import InvalidInput, ModelNotFound
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.grpc.servicer import InferenceServicer

from serving.errors import Refused, bad_input, register


class GuardedDataPlane(DataPlane):
    """KServe's data plane, whose REST decoding raises `InvalidInput` and nothing else."""

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        """As upstream, under the guard."""
        with bad_input("the request"):
            return super().decode(*args, **kwargs)


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
            interceptors=(ExceptionToStatusInterceptor(),),
            # Two servers must not share a port: calls would go to either model.
            options=[(name.replace("_", ".", 1), self._kwargs[name]) for name in limits]
            + [("grpc.so_reuseport", 0)],
        )
        grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            InferenceServicer(self._data_plane, self._model_repository_extension), self._server
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
        self.dataplane = GuardedDataPlane(model_registry=self.registered_models)
        self._grpc_server = BoundGRPCServer(
            host,
            self.grpc_port,
            self.dataplane,
            self.model_repository_extension,
            kwargs=vars(arguments),
            grace_period=self.grace_period,
        )
        self.servers.append(self._grpc_server.start(self.max_threads))
        register(model_server.app, arguments.grpc_max_receive_message_length)

    async def _serve(self) -> None:
        # The coroutines made by start() have not run yet, so the address can still be set.
        self._rest_server.config.host = self.host
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


NEWS = (InvalidInput, Refused, ModelNotFound, RpcError)


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


def run(model: Model, arguments: argparse.Namespace) -> None:
    """Serves the loaded model until SIGTERM; in-flight requests are answered first."""
    server = BoundServer(arguments.host, arguments)
    if arguments.parent_pid:
        _follow_parent(arguments.parent_pid)
    for name in ("kserve", "kserve.trace", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("kserve").addFilter(_without_traceback)
    server.start([model])
