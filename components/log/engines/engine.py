# SPDX-License-Identifier: Apache-2.0
"""What an engine does: it hands each bucket its rows, and each piece of work to somebody. The one
of this process does so one after the other, in bounded memory.

Nothing here knows what a step computes. A step may be run twice, or by another process on another
machine that sees the same files: it writes by a rename, and what it says comes back as Arrow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

import pyarrow as pa

from components.log.buckets import Dealt, dealt

Step = Callable[[int, Sequence[pa.Table]], pa.Table]
"""A bucket's number and its rows of each source become what the bucket says."""
Work = Callable[[pa.Table], Iterable[pa.RecordBatch]]


class Rows(Protocol):
    """Rows of one schema that are dealt to buckets by their keys, and can be read in parts."""

    @property
    def keys(self) -> Sequence[str]:
        """The key columns."""

    @property
    def parts(self) -> Sequence[str]:
        """The names of the parts, in the order in which their rows follow each other."""

    def reader(self, parts: Collection[str]) -> AbstractContextManager[pa.RecordBatchReader]:
        """The rows of some parts, or of none: for their schema."""


class Engine(ABC):
    """Deals work out; what comes back is in order."""

    @abstractmethod
    def by_bucket(self, rows: Sequence[Rows], buckets: int, step: Step) -> Iterator[pa.Table]:
        """Runs a step on every bucket, those without rows too; what each said, by its number.

        A bucket has its rows of each source in the order of the source.
        """

    @abstractmethod
    def each(self, items: Iterable[pa.Table], work: Work) -> Iterator[pa.RecordBatch]:
        """What a piece of work makes of each item, in the order of the items."""


class LocalEngine(Engine):
    """Reads the rows once, and holds or puts aside what the later buckets have of them."""

    def by_bucket(self, rows: Sequence[Rows], buckets: int, step: Step) -> Iterator[pa.Table]:
        """See `Engine.by_bucket`."""
        with ExitStack() as open_:
            shares = [_dealt(open_, source, buckets) for source in rows]
            for number in range(buckets):
                yield step(number, [share.bucket(number) for share in shares])

    def each(self, items: Iterable[pa.Table], work: Work) -> Iterator[pa.RecordBatch]:
        """See `Engine.each`."""
        for item in items:
            yield from work(item)


def _dealt(open_: ExitStack, rows: Rows, buckets: int) -> Dealt:
    reader = open_.enter_context(rows.reader(rows.parts))
    return open_.enter_context(dealt(reader, reader.schema, rows.keys, buckets))
