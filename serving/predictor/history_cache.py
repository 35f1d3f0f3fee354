# SPDX-License-Identifier: Apache-2.0
"""Keys and values of members' histories, kept between requests, bounded in bytes.

An entry is a member's window, its rows and their keys and values. It serves a history whose window
starts where the entry's does and whose rows begin with the entry's, or the other way round: so an
appended impression extends an entry, and a window that slid, or a history that was written anew,
builds another. Which rows they are is compared byte for byte; nothing is taken on trust.

Entries are never written to, so those in use outlive their eviction. Knows nothing of models.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from torch import Tensor

from serving import metrics
from serving.history import History
from serving.wire import to_numpy

TOKENS = 2
"""Of an impression: its post and its action."""


@dataclass(frozen=True)
class _Entry:
    history: History
    memory: Tensor

    @property
    def nbytes(self) -> int:
        return self.memory.nbytes + self.history.batch.get_total_buffer_size()


class HistoryCache:
    """Memories by member, the least recently used out first; for any number of threads.

    `model.layers.context_memory` says what a memory is.

    Args:
        max_bytes: of memories and the rows they belong to; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.nbytes = max_bytes, 0
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, history: History) -> Tensor | None:
        """The memory of as many of the history's first impressions as are known, or None."""
        if history.member_id is None or not history.batch.num_rows:
            return None
        with self._lock:
            entry = self._entries.get(history.member_id)
            if entry is not None:
                self._entries.move_to_end(history.member_id)
        result, memory = _match(entry, history)
        metrics.HISTORY_CACHE_READS.labels(result).inc()
        return memory

    def put(self, history: History, memory: Tensor) -> None:
        """Keeps the memory of a whole history, in the place of the member's former one.

        One that is larger than the cache, or of no rows, is not kept and takes nobody's place.

        Args:
            history: the impressions of the memory, oldest first.
            memory: `[layers, 2, tokens, heads, head_dim]`; not to be written to any more.
        """
        rows, entry = history.batch.num_rows, _Entry(history, memory)
        assert memory.shape[2] == TOKENS * rows
        if history.member_id is None or not rows or entry.nbytes > self.max_bytes:
            return
        with self._lock:
            self._drop(history.member_id)
            self._entries[history.member_id] = entry
            self.nbytes += entry.nbytes
            while self.nbytes > self.max_bytes:
                self._drop(next(iter(self._entries)))
                metrics.HISTORY_CACHE_EVICTIONS.inc()
            metrics.HISTORY_CACHE_BYTES.set(self.nbytes)

    def _drop(self, member_id: int) -> None:
        entry = self._entries.pop(member_id, None)
        self.nbytes -= 0 if entry is None else entry.nbytes


def _match(entry: _Entry | None, history: History) -> tuple[str, Tensor | None]:
    """What became of a look-up, and the part of the entry's memory that is the history's."""
    if entry is None:
        return "miss", None
    if entry.history.start != history.start:
        return "slid", None
    kept, rows = entry.history.batch, history.batch.num_rows
    shared = min(kept.num_rows, rows)
    if not _same_rows(kept, history.batch, shared):
        return "stale", None
    return "hit" if shared == rows else "extended", entry.memory[:, :, : TOKENS * shared]


def _same_rows(left: pa.RecordBatch, right: pa.RecordBatch, rows: int) -> bool:
    """Whether the first rows are the same bytes in every column; unlike equality, for NaN too."""
    pairs = zip(left.slice(0, rows).columns, right.slice(0, rows).columns, strict=True)
    return all(np.array_equal(_bytes(a), _bytes(b)) for a, b in pairs)


def _bytes(column: pa.Array) -> np.ndarray:  # type: ignore[type-arg]
    if pa.types.is_boolean(column.type):
        return column.to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(to_numpy(column)).view(np.uint8)
