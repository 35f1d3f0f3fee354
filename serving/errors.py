# SPDX-License-Identifier: Apache-2.0
"""How serving refuses: one exception a status, the same over REST and gRPC.

KServe's own `InvalidInput` is 400 / INVALID_ARGUMENT and `ModelNotFound` is 404 / NOT_FOUND; this
module adds the two it has no working exception for. It knows nothing of models or features.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import pyarrow as pa
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from grpc import StatusCode
from grpc_interceptor.exceptions import GrpcException
from kserve.errors import InferenceError, InvalidInput


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


def register(app: FastAPI) -> None:
    """Maps `Refused` to its HTTP status on a FastAPI application."""
    app.add_exception_handler(Refused, _refuse)


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
