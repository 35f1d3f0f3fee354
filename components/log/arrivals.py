# SPDX-License-Identifier: Apache-2.0
"""What arrived on a day, checked, by buckets of members: few rows are one bucket, held in memory.

Duplicates and sessions are a member's own, so that a bucket is sorted out by itself. It comes with
the impressions of earlier days that its rows may repeat or continue, and with no others. This
module knows neither what is a duplicate nor what is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from components.layout.paths import Layout
from components.log import buckets as module
from components.log.buckets import dealt
from components.log.checks import MAX_LATE_DAYS, impression_reasons
from components.log.columns import Ints, Mask, column
from components.log.duplicates import IMPRESSION_KEY
from components.log.quarantine import refused_schema
from components.log.schema import BATCH_ROWS, check_schema, read_batches
from components.log.sessions import gapped_rows, mix
from components.log.times import Units
from feature_repo.spec import Spec

KEY = ("member_id",)
TIMES = ("event_time", "arrival_time")
SALT = 5
"""Tells this hash from those of sessions and buckets."""


@dataclass(frozen=True)
class Share:
    """The rows of a bucket of members.

    Attributes:
        rows: as they came, with the `reason` for which a row is refused by itself, "" of the good.
        earlier: the impressions of earlier days that they may repeat or continue.
    """

    rows: pa.Table
    earlier: pa.Table


@contextmanager
def arrivals(layout: Layout, spec: Spec, day: str, buckets: int) -> Iterator[Iterator[Share]]:
    """What arrived on a day, a share at a time, for the length of a block.

    Args:
        layout: the run.
        spec: says what a row must hold.
        day: YYYY-MM-DD.
        buckets: how many shares there are where the day has more rows than are held in memory.

    Raises:
        ValueError: the day cannot be read, or has its times in another unit than milliseconds.
    """
    path, number = layout.raw_day(day), spec.day_number(day)
    count, reach = share_count(path, buckets), Reach(spec, number)
    checked = _checked(path, spec, number, reach)
    with dealt(checked, refused_schema(spec.impression_schema), KEY, count) as rows:
        before = _earlier(earlier_files(layout, spec, number), spec, reach)
        with dealt(before, kept_schema(spec), KEY, count) as earlier:
            yield (Share(rows.bucket(b), earlier.bucket(b)) for b in range(count))


def share_count(path: Path, buckets: int) -> int:
    """How many shares a raw day has: one where its rows are held in memory."""
    many = pq.read_metadata(path).num_rows > module.ROWS_IN_MEMORY
    return buckets if many else 1


def earlier_files(layout: Layout, spec: Spec, day: int) -> list[Path]:
    """The impressions of the seven days before."""
    names = [spec.day_name(d) for d in range(day - MAX_LATE_DAYS, day)]
    return [p for p in map(layout.impressions_day, names) if p.is_file()]


def with_reasons(rows: pa.Table, spec: Spec, day: int) -> pa.Table:
    """The rows with the `reason` for which each is refused by itself, "" of the good."""
    return rows.append_column("reason", pa.array(impression_reasons(rows, spec, day), pa.string()))


def kept_schema(spec: Spec) -> pa.Schema:
    """The columns of checked impressions."""
    return spec.impression_schema.append(pa.field("session_id", pa.int64(), nullable=False))


def _checked(path: Path, spec: Spec, day: int, reach: Reach) -> Iterator[pa.RecordBatch]:
    """The rows with their `reason`; at the end, ValueError where no time is in milliseconds."""
    units = {name: Units() for name in TIMES}
    for rows in read_batches(path, spec.impression_schema):
        for name in TIMES:
            units[name].add(column(rows, name, "left out"))
        checked = with_reasons(rows, spec, day)
        reach.add(rows.filter(pa.array(column(checked, "reason") == "", pa.bool_())))
        yield from checked.to_batches()
    for name in TIMES:
        units[name].refuse_all(f"{path}: {name}")


class Reach:
    """Which earlier impressions a day's good rows may repeat, or continue the sessions of.

    An earlier day's impression was served before the day, so that only a late row repeats it. A
    row whose session is known by a pause may continue what its member saw since the pause began.

    Args:
        spec: says how long a pause may be.
        day: the local day.
    """

    def __init__(self, spec: Spec, day: int) -> None:
        self._start, self._gap = int(spec.day_start(day)), spec.session_gap_ms
        self._late: list[Ints] = []
        self._gapped: list[tuple[Ints, Ints]] = []
        self.since: int | None = None
        """The earliest time of an impression in reach; None where none is."""

    def add(self, good: pa.Table) -> None:
        """Takes rows of the day."""
        event, gapped = column(good, "event_time", "zero"), gapped_rows(good)
        late = event < self._start
        self._late.append(_key_hash(good)[late])
        self._gapped.append(_firsts(column(good, "member_id", "zero")[gapped], event[gapped]))
        for times in (event[late], event[gapped] - self._gap):
            if len(times):
                first = int(times.min())
                self.since = first if self.since is None else min(self.since, first)

    @cached_property
    def _repeated(self) -> Ints:
        return np.unique(np.concatenate(self._late))

    @cached_property
    def _paused(self) -> tuple[Ints, Ints]:
        members, times = (np.concatenate(part) for part in zip(*self._gapped, strict=True))
        return _firsts(members, times)

    def rows(self, earlier: pa.RecordBatch) -> Mask:
        """Which impressions of earlier days are in reach `[N]`, once all of the day are taken."""
        table = pa.Table.from_batches([earlier])
        members, firsts = self._paused
        place = _places(members, column(table, "member_id"))
        near = (place >= 0) & gapped_rows(table)
        if len(members):
            near &= column(table, "event_time") >= firsts[place] - self._gap
        return near | (_places(self._repeated, _key_hash(table)) >= 0)


def _key_hash(rows: pa.Table) -> Ints:
    """A hash of what tells an impression from others, int64 `[N]`."""
    return mix(SALT, *(column(rows, name, "zero") for name in IMPRESSION_KEY))


def _firsts(members: Ints, times: Ints) -> tuple[Ints, Ints]:
    """Each member once, in order, with the first of its times."""
    order = np.lexsort([times, members])
    own, place = np.unique(members[order], return_index=True)
    return own, times[order][place]


def _places(ordered: Ints, values: Ints) -> Ints:
    """Where each value is in an array that is in order, `[N]`; -1 where it is not."""
    if not len(ordered):
        return np.full(len(values), -1)
    place = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return np.where(ordered[place] == values, place, -1)


def _earlier(files: Sequence[Path], spec: Spec, reach: Reach) -> Iterator[pa.RecordBatch]:
    """The earlier impressions that are in reach."""
    if not files or reach.since is None:
        return
    for file in files:
        check_schema(file, kept_schema(spec))
        data = ds.dataset(str(file), schema=kept_schema(spec))
        seen = ds.field("event_time") >= reach.since
        for batch in data.to_batches(filter=seen, batch_size=BATCH_ROWS, batch_readahead=2):
            yield batch.filter(pa.array(reach.rows(batch), pa.bool_()))
