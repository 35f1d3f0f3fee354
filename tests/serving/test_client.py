# SPDX-License-Identifier: Apache-2.0
"""Asking a server: its predictions, its own sentence where it refuses, and where it is gone."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from serving.client import ask
from serving.launch import NAME, free_ports


class Answers(ThreadingHTTPServer):
    """A server that keeps what it was sent and gives the one answer that a test sets."""

    answer: tuple[int, bytes] = (200, b"")
    asked: tuple[str, Any] = ("", None)


class Handler(BaseHTTPRequestHandler):
    server: Answers

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.asked = self.path, json.loads(body)
        status, answer = self.server.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[Answers]:
    with Answers(("127.0.0.1", 0), Handler) as answers:
        thread = threading.Thread(target=answers.serve_forever)
        thread.start()
        yield answers
        answers.shutdown()
        thread.join(10)


def url_of(server: Answers) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_the_predictions_of_an_answer_come_back(server: Answers) -> None:
    server.answer = 200, b'{"predictions": [{"ranked": []}]}'
    instances = [{"member_id": 7, "candidates": [1]}]
    assert ask(url_of(server), instances) == [{"ranked": []}]
    assert server.asked == (f"/v1/models/{NAME}:predict", {"instances": instances})


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b'{"error": "candidates is missing"}', "candidates is missing"),
        (b"", "Bad Request"),
        (b"<html>no such gateway</html>", "Bad Request"),
        (b"[1]", "Bad Request"),
        (b"{}", "Bad Request"),
    ],
)
def test_a_refusal_is_told_in_the_servers_own_words(
    server: Answers, answer: bytes, reason: str
) -> None:
    server.answer = 400, answer
    with pytest.raises(ValueError, match=rf"{url_of(server)} answered 400: {reason}$"):
        ask(url_of(server), [])


def test_a_server_that_is_not_there_is_told() -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(ValueError, match=rf"the server at {url} does not answer: .*refused"):
        ask(url, [])
