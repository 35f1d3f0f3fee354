# SPDX-License-Identifier: Apache-2.0
"""The one place that chooses who packs, and says so once."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from kernels.loader import native, reference
from kernels.loader.reference import Ints, Packed, Shuffle
from kernels.loader.shards import ShardFormat, read_shard

Implementation = Literal["native", "numpy"]
"""C++ on Arrow's buffers; the oracle, and what there is without a compiler."""

_log = logging.getLogger(__name__)


class Resident(Protocol):
    """A decoded shard in memory."""

    @property
    def lengths_S(self) -> Ints:
        """The impressions of each sequence."""


class Packer(Protocol):
    """Reads shards and packs batches of what it has read."""

    def read(self, path: Path, form: ShardFormat, first: int, checksum: int | None) -> Resident:
        """A shard, checked; see `read_shard`."""

    def gather(
        self,
        pieces: Sequence[tuple[Any, Ints]],
        order: Ints,
        limit: int | None,
        shuffle: Shuffle | None,
    ) -> Packed:
        """Sequences of several shards in one order; see `reference.gather`."""


class NumpyPacker:
    """The oracle."""

    read = staticmethod(read_shard)
    gather = staticmethod(reference.gather)


def choose(threads: int, pin: bool, implementation: Implementation | None = None) -> Packer:
    """The fastest packer there is, or the one that is named; logs which, and why.

    Raises:
        ValueError: the native one is named and there is none, or memory cannot be pinned.
    """
    if pin and not torch.accelerator.is_available():
        raise ValueError("pin is for a GPU, and this machine has none; leave it off")
    module, reason = native.available()
    if implementation == "native" and module is None:
        raise ValueError(f"the native loader is not there: {reason}; name no implementation")
    if implementation == "numpy" or module is None:
        _say("NumPy", "asked for" if implementation else reason)
        return NumpyPacker()
    _say("native", reason)
    return native.NativePacker(module, threads, pin)


@functools.cache
def _say(chosen: str, reason: str) -> None:
    _log.info("loader: %s (%s)", chosen, reason)
