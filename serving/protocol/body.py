# SPDX-License-Identifier: Apache-2.0
"""A REST call's body: received, decompressed and parsed, each within a bound.

What is JSON is taken under any label that a client puts on it unasked; what is labelled as
something else is refused with 415 and the reason. This module knows HTTP and JSON, not models.
"""

from __future__ import annotations

import json
import math
import zlib
from email.message import Message
from typing import Any, NoReturn

from starlette.datastructures import Headers
from starlette.requests import Request

from serving.errors import Unsupported
from serving.excerpt import excerpt

UNASKED = (
    "",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
    "binary/octet-stream",
    "text/plain",
)
"""What clients say of a body where their caller said nothing."""
JSON = ("application/json", "text/json")
CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii")
WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""zlib's window of each content encoding (RFC 9110, section 8.4.1)."""
BOM = b"\xef\xbb\xbf"


async def receive(request: Request, limit: int) -> bytes:
    """The whole body, decompressed.

    Raises:
        Unsupported: a content encoding that is not decoded here.
        ValueError: more than `limit` bytes, before or after decompression, or a damaged body.
    """
    body, size = bytearray(), 0
    # A caller reads no answer before all is sent: what is beyond the limit is taken and forgotten.
    async for part in request.stream():
        size += len(part)
        if size <= limit:
            body += part
    if size > limit:
        raise ValueError(_too_large(limit))
    return decompress(bytes(body), request.headers, limit)


def decompress(body: bytes, headers: Headers, limit: int) -> bytes:
    """A received body without its content encoding; errors as in `receive`."""
    named = ",".join(headers.getlist("content-encoding")).lower().split(",")
    encodings = [name for name in map(str.strip, named) if name not in ("", "identity")]
    if not encodings:
        return body
    if len(encodings) > 1 or encodings[0] not in WINDOWS:
        raise Unsupported(
            f"the body's content encoding is {excerpt(', '.join(encodings))}, want gzip, deflate "
            "or none"
        )
    window = WINDOWS[encodings[0]]
    if encodings[0] == "deflate" and not _has_zlib_header(body):
        window = -15
    try:
        return _inflate(body, window, limit)
    except zlib.error as error:
        raise ValueError(f"the body is not {encodings[0]}, as its encoding says") from error


def parse_json(body: bytes, headers: Headers) -> Any:
    """The value of a JSON body, with every key of an object there once.

    Raises:
        Unsupported: the content type says that it is something else.
        ValueError: it is no JSON (RFC 8259), or a number is beyond a double.
    """
    body = body.removeprefix(BOM)
    _check_type(body, headers)
    if not body.strip():
        raise ValueError("the body is empty, want JSON")
    try:
        return json.loads(
            body.decode(),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"the body is not UTF-8 from byte {error.start} on") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"the body is no JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise ValueError("the body is nested too deeply") from error


def _check_type(body: bytes, headers: Headers) -> None:
    """Unsupported unless the body may be JSON by its content type."""
    named = headers.getlist("content-type")
    header = Message()
    header["content-type"] = named[0] if named else ""
    media, _, _ = header["content-type"].partition(";")
    media = media.strip().lower()
    charset = str(header.get_param("charset") or "utf-8").lower()
    if any(name.startswith("ce-") for name in headers) or "cloudevents" in media:
        raise Unsupported("the call is a CloudEvent; send the event's data as application/json")
    labelled = media in JSON or (media.startswith("application/") and media.endswith("+json"))
    if len(set(named)) > 1 or not (labelled or media in UNASKED):
        raise Unsupported(
            f"the content type is {excerpt(', '.join(named))}, want application/json in UTF-8"
        )
    if charset not in CHARSETS:
        raise Unsupported(f"the charset is {excerpt(charset)}, want utf-8")
    if body.strip() and not labelled and body.lstrip()[:1] not in (b"{", b"["):
        raise Unsupported("the body is no JSON; send it as application/json")


def _inflate(body: bytes, window: int, limit: int) -> bytes:
    """All members of a compressed body."""
    whole = bytearray()
    while body:
        member = zlib.decompressobj(window)
        whole += member.decompress(body, limit + 1 - len(whole))
        if len(whole) > limit:
            raise ValueError(_too_large(limit))
        if not member.eof:
            raise ValueError("the compressed body ends too early")
        body = member.unused_data
    return bytes(whole)


def _has_zlib_header(body: bytes) -> bool:
    """Whether a deflate body is what RFC 1950 says, or the bare stream that some clients send."""
    return len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0


def _too_large(limit: int) -> str:
    return f"the body has more than {limit} bytes; split the call"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {excerpt(key)} is there twice in one object")
            seen.add(key)
    return values


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {excerpt(text)} is beyond a double")
    return value


def _int(text: str) -> int:
    if len(text) > len(str(-(2**63))):
        raise ValueError(f"the number {excerpt(text)} is beyond 64 bits")
    return int(text)
