# SPDX-License-Identifier: Apache-2.0
"""How serving refuses: one exception a status, the same over REST and gRPC, each one sentence.

KServe's own `InvalidInput` is 400 / INVALID_ARGUMENT; this module adds the ones it has no working
exception for. Every sentence is bounded here, whoever made it (`serving.excerpt`). It knows nothing
of models or features.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import pyarrow as pa
from grpc import StatusCode
from grpc_interceptor.exceptions import GrpcException
from kserve.errors import InferenceError, InvalidInput

from serving.excerpt import sentence


class Refused(GrpcException):
    """A request that is refused; says why in one sentence."""

    http_status: ClassVar[int] = 503
    status_code = StatusCode.UNAVAILABLE

    def __init__(self, reason: str) -> None:
        super().__init__(details=sentence(reason))

    def __str__(self) -> str:
        return self.details


class Unavailable(Refused):
    """503 / UNAVAILABLE: a full queue, a store or predictor that does not answer."""


class TooLate(Refused):
    """504 / DEADLINE_EXCEEDED: the deadline passed, or cannot be met any more."""

    http_status = 504
    status_code = StatusCode.DEADLINE_EXCEEDED


class NotFound(Refused):
    """404 / NOT_FOUND: no such model, or no such version of it."""

    http_status = 404
    status_code = StatusCode.NOT_FOUND


class NotOffered(Refused):
    """501 / UNIMPLEMENTED: a call that the protocol knows and this server does not take."""

    http_status = 501
    status_code = StatusCode.UNIMPLEMENTED


class Unsupported(Refused):
    """415 / INVALID_ARGUMENT: a body in another form than the one that is read here."""

    http_status = 415
    status_code = StatusCode.INVALID_ARGUMENT


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
    """The guard around decoding: what a malformed message raises inside becomes `InvalidInput`."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(sentence(str(error))) from error
    except BAD_INPUT as error:
        reason = str(error) if type(error) is ValueError else f"{what} cannot be read: {error}"
        raise InvalidInput(sentence(reason)) from error
