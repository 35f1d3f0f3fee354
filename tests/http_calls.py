# SPDX-License-Identifier: Apache-2.0
"""HTTP calls whose headers are what the test says and nothing else."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """What a server answered; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The sentence of a refusal."""
        assert set(self.json) == {"error"}
        return str(self.json["error"])


def call(
    method: str,
    url: str,
    body: bytes | Iterable[bytes] | None = None,
    headers: Iterable[tuple[str, str]] = (),
) -> Answer:
    """One call; parts of bytes are sent in chunks."""
    address = urlsplit(url)
    assert address.hostname
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    try:
        path = url.partition(address.netloc)[2]
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        chunked = body is not None and not isinstance(body, bytes)
        if chunked:
            connection.putheader("transfer-encoding", "chunked")
        elif isinstance(body, bytes):
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body, encode_chunked=chunked)
        reply = connection.getresponse()
        named = {name.lower(): value for name, value in reply.getheaders()}
        return Answer(reply.status, named, reply.read())
    finally:
        connection.close()


def cut_short(url: str, declared: int, body: bytes) -> bytes:
    """What comes back for a POST that declares more bytes than it sends, and hangs up its side."""
    address = urlsplit(url)
    assert address.hostname
    with socket.create_connection((address.hostname, address.port or 80), timeout=30) as wire:
        head = f"POST {address.path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        wire.sendall(f"{head}content-length: {declared}\r\n\r\n".encode() + body)
        wire.shutdown(socket.SHUT_WR)
        return wire.recv(65536)
