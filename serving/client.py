# SPDX-License-Identifier: Apache-2.0
"""Asks a running transformer over V1 JSON, as any caller would.

It knows no feature and no model.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from serving.launch import NAME


def ask(url: str, instances: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The predictions of a V1 call; ValueError with the server's own sentence if it refuses."""
    body = json.dumps({"instances": instances}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/models/{NAME}:predict", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.loads(reply.read())["predictions"]
    except urllib.error.HTTPError as error:
        with error:
            reason = _reason(error)
        raise ValueError(f"the server at {url} answered {error.code}: {reason}") from error
    except OSError as error:
        raise ValueError(f"the server at {url} does not answer: {error}") from error


def _reason(error: urllib.error.HTTPError) -> str:
    """The server's own sentence, or what its status means where it sent something else."""
    try:
        return str(json.loads(error.read())["error"])
    except (ValueError, TypeError, KeyError):
        return error.reason
