# SPDX-License-Identifier: Apache-2.0
"""The REST face of a model server: the routes of KServe's V1 and V2 protocols that read.

There is no other. KServe's own application also loads and unloads models without asking who calls,
explains, and describes itself; and it decodes by the exact spelling of a content type. This one is
made of `serving.protocol.body` and `serving.protocol.message`; models and their state are the data
plane's.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from kserve.errors import InvalidInput
from kserve.protocol.rest.server import metrics_handler
from starlette.applications import Starlette
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from serving.errors import Refused, Unavailable, bad_input
from serving.excerpt import excerpt, sentence
from serving.protocol.body import WINDOWS, parse_json, receive
from serving.protocol.data_plane import DataPlane
from serving.protocol.message import LENGTH, from_rest


class _NameConvertor(StringConvertor):
    """A model's name, which ends where KServe's V1 verbs begin."""

    regex = "[^/:]+"


register_url_convertor("model", _NameConvertor())


def application(plane: DataPlane, limit: int) -> Starlette:
    """The application over the plane's models; a body has at most `limit` bytes."""
    face = _Face(plane, limit)
    gets: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/": face.alive,
        "/metrics": metrics_handler,
        "/v1/models": face.models,
        "/v1/models/{name:model}": face.model_ready,
        "/v2": face.server,
        "/v2/health/live": face.live,
        "/v2/health/ready": face.ready,
        "/v2/models": face.models,
        "/v2/models/{name:model}": face.metadata,
        "/v2/models/{name:model}/ready": face.model_ready,
        "/v2/models/{name:model}/versions/{version}": face.metadata,
        "/v2/models/{name:model}/versions/{version}/ready": face.model_ready,
    }
    posts = {
        "/v1/models/{name:model}:predict": face.predict,
        "/v2/models/{name:model}/infer": face.infer,
        "/v2/models/{name:model}/versions/{version}/infer": face.infer,
    }
    return Starlette(
        routes=[
            *(Route(path, handler, methods=["GET"]) for path, handler in gets.items()),
            *(Route(path, handler, methods=["POST"]) for path, handler in posts.items()),
        ],
        exception_handlers={
            Refused: _refuse,
            InvalidInput: _refuse,
            HTTPException: _unknown,
            ClientDisconnect: _gone,
            Exception: _fail,
        },
    )


class _Face:
    """The handlers of one application."""

    def __init__(self, plane: DataPlane, limit: int) -> None:
        self.plane, self.limit = plane, limit

    async def alive(self, _: Request) -> Response:
        return _json(await self.plane.live())

    async def live(self, _: Request) -> Response:
        return _json({"live": True})

    async def ready(self, _: Request) -> Response:
        return _json({"ready": await self.plane.ready()})

    async def server(self, _: Request) -> Response:
        return _json(self.plane.metadata())

    async def models(self, _: Request) -> Response:
        return _json({"models": list(self.plane.model_registry.get_models())})

    async def metadata(self, request: Request) -> Response:
        name = self._name(request)
        return _json(await self.plane.model_metadata(name))

    async def model_ready(self, request: Request) -> Response:
        name = self._name(request)
        if not await self.plane.model_ready(name):
            raise Unavailable(f"model {name} is not ready")
        return _json({"name": name, "ready": True})

    async def predict(self, request: Request) -> Response:
        """V1: JSON in, JSON out."""
        name = self._name(request)
        with bad_input("the request"):
            _check_query(request)
            body = await receive(request, self.limit)
            payload = parse_json(body, request.headers)
        answer, _ = await self.plane.model(name)(payload, dict(request.headers))
        return _json(answer)

    async def infer(self, request: Request) -> Response:
        """V2: JSON, or JSON and the tensors' bytes after it, both ways."""
        name = self._name(request)
        with bad_input("the request"):
            _check_query(request)
            body = await receive(request, self.limit)
            message = from_rest(body, request.headers, name)
        self.plane.check_version(name, message.model_version)
        answer, _ = await self.plane.model(name)(message, dict(request.headers))
        reply, size = answer.to_rest()
        if size is None:
            return _json(reply)
        return Response(reply, 200, {LENGTH: str(size)}, "application/octet-stream")

    def _name(self, request: Request) -> str:
        """The model's name in the address; NotFound where it, or its version, is not served."""
        name = str(request.path_params["name"])
        self.plane.check_version(name, request.path_params.get("version", ""))
        return name


def _check_query(request: Request) -> None:
    if request.url.query:
        raise ValueError(
            f"the address ends in {excerpt('?' + request.url.query)}; say it in the body"
        )


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, "application/json")


async def _refuse(_: Request, error: Exception) -> Response:
    status = error.http_status if isinstance(error, Refused) else 400
    # What can be sent instead (RFC 9110, section 15.5.16).
    headers = {"accept": "application/json", "accept-encoding": ", ".join(WINDOWS)}
    return _json({"error": sentence(str(error))}, status, headers if status == 415 else None)


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = excerpt(f"{request.method} {request.url.path}")
    return _json({"error": f"{what} is not served here"}, error.status_code, error.headers)


async def _gone(_: Request, __: Exception) -> Response:
    """Nobody reads this answer: the caller left before its body was whole."""
    return Response(status_code=400)


async def _fail(request: Request, error: Exception) -> Response:
    logging.getLogger(__name__).error("%s: %s", request.url.path, error)
    return _json({"error": "the server made a mistake; its log says more"}, 500)
