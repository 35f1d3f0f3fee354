# SPDX-License-Identifier: Apache-2.0
"""Rows for engines to deal out, that any process can make again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from components.log.buckets import deal
from components.log.engines import Engine, Rows, Step, Work


@dataclass(frozen=True)
class Numbers:
    """Numbers in parts of seven, the last of which is empty."""

    keys: tuple[str, ...] = ("number",)
    parts: tuple[str, ...] = ("0", "7", "14", "none")

    @contextmanager
    def reader(self, parts: Collection[str]) -> Iterator[pa.RecordBatchReader]:
        """The numbers of some parts, three at a time."""
        tables = [numbers(int(part)) for part in parts if part != "none"]
        table = pa.concat_tables([numbers(0).schema.empty_table(), *tables])
        yield table.to_reader(max_chunksize=3)


def numbers(start: int) -> pa.Table:
    """Seven numbers from one on, each beside a list of its half."""
    values = np.arange(start, start + 7)
    halves = pa.array([[value / 2] for value in values], pa.list_(pa.float32()))
    return pa.table({"number": pa.array(values), "half": halves})


class InParts(Engine):
    """Reads each part by itself, as machines that share no memory do; in this process."""

    def by_bucket(self, rows: Sequence[Rows], buckets: int, step: Step) -> Iterator[pa.Table]:
        """See `Engine.by_bucket`."""
        shares = [self._shares(source, buckets) for source in rows]
        yield from [step(number, [own[number] for own in shares]) for number in range(buckets)]

    def each(self, items: Iterable[pa.Table], work: Work) -> Iterator[pa.RecordBatch]:
        """See `Engine.each`."""
        yield from [batch for item in items for batch in work(item)]

    def _shares(self, rows: Rows, buckets: int) -> list[pa.Table]:
        with rows.reader(()) as reader:
            shares = [[reader.schema.empty_table()] for _ in range(buckets)]
        for part in rows.parts:
            with rows.reader([part]) as reader:
                table = reader.read_all()
            for share, own in zip(shares, deal(table, rows.keys, buckets), strict=True):
                share.append(own)
        return [pa.concat_tables(share) for share in shares]
