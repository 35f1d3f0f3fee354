# SPDX-License-Identifier: Apache-2.0
"""Checksums of a folder of shards. Arrow IPC has none: to it, a flipped bit of a value is data.

`checksums.json` beside the shards holds the CRC-32 of each by file name. Whoever writes a folder
calls `write_checksums` last. Knows files and their bytes; does not know Arrow.
"""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kernels._native import native

CHECKSUMS = "checksums.json"
CHUNK_BYTES = 1 << 20


def write_checksums(folder: Path) -> None:
    """Writes `checksums.json` for the shards of a folder that nobody reads yet."""
    sums = {path.name: file_checksum(path) for path in sorted(folder.glob("*.arrow"))}
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=2) + "\n")


def recorded_checksum(path: Path) -> int | None:
    """What `write_checksums` found of a shard; None where the folder has no checksums.

    Raises:
        ValueError: the checksums are damaged, or the shard is not among them.
    """
    beside = path.parent / CHECKSUMS
    try:
        return int(json.loads(beside.read_bytes())[path.name])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{beside} has no checksum of {path.name}; build the sequences again"
        ) from error


def file_checksum(path: Path) -> int:
    """CRC-32 of a file's bytes."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            value = checksum_of(chunk, value)
    return value


def checksum_of(content: Any, value: int = 0) -> int:
    """CRC-32 of the bytes of a buffer, continued from `value`."""
    return int(_crc32()(np.frombuffer(content, np.uint8), value))


@functools.cache
def _crc32() -> Callable[[Any, int], int]:
    """The fastest there is; all give the same."""
    module, _ = native("loader")
    return module.crc32 if module is not None and module.crc32_usable() else zlib.crc32
