# SPDX-License-Identifier: Apache-2.0
"""How serving refuses: one exception a status, the same over REST and gRPC.

KServe's own `InvalidInput` is 400 / INVALID_ARGUMENT and `ModelNotFound` is 404 / NOT_FOUND; this
module adds the two it has no working exception for, and refuses over REST what FastAPI would answer
with 422 and a body that nobody bounds. It knows nothing of models or features.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import pyarrow as pa
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from grpc import StatusCode
from grpc_interceptor.exceptions import GrpcException
from kserve.errors import InferenceError, InvalidInput
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Refused(GrpcException):
    """A request that is refused for no fault of its own; says why in one sentence."""

    http_status: ClassVar[int] = 503
    status_code = StatusCode.UNAVAILABLE

    def __str__(self) -> str:
        return self.details


class Unavailable(Refused):
    """503 / UNAVAILABLE: a full queue, a store or predictor that does not answer."""


class TooLate(Refused):
    """504 / DEADLINE_EXCEEDED: the deadline passed, or cannot be met any more."""

    http_status = 504
    status_code = StatusCode.DEADLINE_EXCEEDED


async def _refuse(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return JSONResponse(status_code=error.http_status, content={"error": error.details})


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return JSONResponse(status_code=400, content={"error": f"{where}: {first['msg']}"[:500]})


class BodyLimit:
    """ASGI middleware: a request's body beyond `limit` bytes is refused with 400 and not kept."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts what is received on its way to the application."""
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size <= self.limit:
                return message
            # A caller reads no answer before all is sent: the rest is taken and forgotten.
            while message.get("more_body"):
                message = await receive()
            raise InvalidInput(f"the body has more than {self.limit} bytes; split the call")

        await self.app(scope, counted, send)


def register(app: FastAPI, max_body: int) -> None:
    """Maps refusals to their HTTP status on a FastAPI application, and bounds a request's body."""
    app.add_exception_handler(Refused, _refuse)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_middleware(BodyLimit, limit=max_body)


BAD_INPUT = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    OSError,
    struct.error,
    InferenceError,
    pa.ArrowException,
)
"""What decoding raises on a malformed message; everything else is our own mistake."""


@contextmanager
def bad_input(what: str) -> Iterator[None]:
    """The one guard around decoding: whatever a malformed message raises inside becomes
    `InvalidInput`.
    """
    try:
        yield
    except InvalidInput:
        raise
    except BAD_INPUT as error:
        reason = str(error) if type(error) is ValueError else f"{what} cannot be read: {error}"
        raise InvalidInput(" ".join(reason.split())[:500]) from error
