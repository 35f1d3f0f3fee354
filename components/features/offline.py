# SPDX-License-Identifier: Apache-2.0
"""The offline rows of every packed feature view as of the end of a day.

A row is written only where it changed since the view's previous day: a point-in-time join takes the
latest one. It knows nothing of Feast; the files are what Feast reads.
"""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from components.config import DailyConfig
from components.console import progress
from components.features.counter_state import empty_state
from components.features.counting import Counting, by_content
from components.features.state import Origin
from components.features.unknown_posts import declared_since, note_unknown
from components.layout.files import atomic_path, write_parquet
from components.layout.paths import Layout
from components.log.columns import column, packed_bytes, records
from components.log.engines import Engine, engine_named
from components.log.impressions import bounded_duckdb, days_through, read_members, read_posts
from feature_repo.kinds import View
from feature_repo.quoting import duckdb_parquet
from feature_repo.spec import Spec

EPOCH = 0
"""The event time of the members that a log begins with, and of a post whose creation time is
unknown: such a row holds from the beginning."""


def features(layout: Layout, day: str, config: DailyConfig) -> dict[str, int]:
    """Writes `features/<view>/day=<day>.parquet` for every view of the spec; returns rows by view.

    Raises:
        ValueError: nothing is ingested through the day.
    """
    spec = config.spec
    written: dict[str, int] = {}
    days_through(layout, day)
    key = Origin.key_of(spec, config.buckets)
    engine = engine_named(config.engine, layout.root)
    declared = cache(partial(declared_since, layout, key=key))
    with progress("features", len(spec.views)) as advance:
        for view in spec.views:
            since_day = previous_day(layout, view.name, day)
            if view.kind == "counters":
                counting = Counting(
                    layout=layout,
                    view=view,
                    spec=spec,
                    day=day,
                    since_day=since_day,
                    buckets=config.buckets,
                    declared=declared(since_day) if by_content(view) else None,
                )
                written[view.name] = _counted(layout, counting, engine)
            else:
                table = _static(layout, view, day, spec)
                write_parquet(layout.feature_day(view.name, day), table)
                written[view.name] = table.num_rows
            advance()
    note_unknown(layout, day, key)
    return written


def previous_day(layout: Layout, view: str, day: str) -> str | None:
    """The latest earlier day that has rows of a view; None if this is the first."""
    days = [p.stem[4:] for p in layout.feature_dir(view).glob("day=*.parquet")]
    return max((d for d in days if d < day), default=None)


def feature_rows(keys: pa.Table, event_ms: npt.NDArray[np.int64], value: pa.Array) -> pa.Table:
    """Rows as Feast reads them: keys, event and created timestamps (equal, UTC), `packed`."""
    times = pa.array(event_ms * 1000, pa.timestamp("us", tz="UTC"))
    # Built anew: whether a source declared its keys never null must not tell days apart.
    columns = {name: keys[name] for name in keys.column_names}
    stamps = {"event_timestamp": times, "created_timestamp": times}
    return pa.table({**columns, **stamps, "packed": value})


def _counted(layout: Layout, counting: Counting, engine: Engine) -> int:
    """Writes a view's rows of a day, a bucket a row group; returns how many."""
    view, day = counting.view, counting.day
    end, rows = counting.spec.day_end(day), 0
    keys, nothing = empty_state(view).select(list(view.keys)), pa.array([], pa.binary())
    schema = feature_rows(keys, np.zeros(0, np.int64), nothing).schema
    with (
        atomic_path(layout.feature_day(view.name, day)) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for packed in counting.rows(engine):
            cutoffs = np.full(packed.num_rows, end, np.int64)
            keys, values = packed.select(list(view.keys)), packed["packed"].combine_chunks()
            writer.write_table(feature_rows(keys, cutoffs, values))
            rows += packed.num_rows
    return rows


def _static(layout: Layout, view: View, day: str, spec: Spec) -> pa.Table:
    """The posts or members whose record is new or another than the last one written."""
    end = spec.day_end(day)
    (key,) = view.keys
    table = read_posts(layout) if view.kind == "content" else read_members(layout)
    if view.kind == "content":
        table = table.filter(pa.array(column(table, "created_ms") < end))
    table = table.sort_by(key)
    packed = records(table, view)
    # A member who comes later has a profile from then on: nobody knew it before.
    begins = previous_day(layout, view.name, day) is None
    since = np.full(len(packed), EPOCH if begins else end, np.int64)
    if view.kind == "content":
        since = np.maximum(packed["created_ms"], EPOCH)
    rows = feature_rows(table.select([key]), since, packed_bytes(packed))
    return _only_changed(layout, view, day, rows, end)


def _only_changed(layout: Layout, view: View, day: str, rows: pa.Table, end: int) -> pa.Table:
    (key,) = view.keys
    earlier = sorted(
        p for p in layout.feature_dir(view.name).glob("day=*.parquet") if p.stem[4:] < day
    )
    if not earlier:
        return rows
    with bounded_duckdb() as connection:
        connection.register("rows", rows)
        answer = connection.execute(
            f"with last as (select {key}, arg_max(packed, event_timestamp) as packed "
            f"from {duckdb_parquet(earlier)} group by {key}) "
            f"select r.{key}, last.{key} is null as fresh, r.packed, "
            f"epoch_ms(r.event_timestamp) as since from rows r "
            f"left join last using ({key}) "
            f"where last.{key} is null or last.packed <> r.packed order by r.{key}"
        ).to_arrow_table()
    event_ms = np.where(column(answer, "fresh"), column(answer, "since"), end).astype(np.int64)
    return feature_rows(answer.select([key]), event_ms, answer["packed"].combine_chunks())
