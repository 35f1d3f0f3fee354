# SPDX-License-Identifier: Apache-2.0
"""What a query says of the log's days, a part a day; whoever can see the files can read a part."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa

from components.layout.paths import Layout
from components.log.impressions import ImpressionLog


@dataclass(frozen=True, kw_only=True)
class LogRows:
    """The rows of a query over some days, each of which answers for itself; in no order.

    Attributes:
        layout: the run.
        through_day: the last day of the log.
        days: those that are read.
        sql: a query that looks at each impression alone (`ImpressionLog`).
        keys: the columns by which the rows are dealt.
        tables: what else the query reads.
    """

    layout: Layout
    through_day: str
    days: frozenset[str]
    sql: str
    keys: tuple[str, ...]
    tables: dict[str, pa.Table] = field(default_factory=dict)

    @property
    def parts(self) -> Sequence[str]:
        """The days that there are, in order."""
        return [day for day in self.layout.impression_days() if day in self.days]

    @contextmanager
    def reader(self, parts: Collection[str]) -> Iterator[pa.RecordBatchReader]:
        """The rows of some days."""
        with ImpressionLog(self.layout, self.through_day, parts) as log:
            yield log.batches(self.sql, **self.tables)
