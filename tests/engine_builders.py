# SPDX-License-Identifier: Apache-2.0
"""Rows for engines to deal out, that any process can make again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa


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
