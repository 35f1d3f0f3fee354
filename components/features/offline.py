# SPDX-License-Identifier: Apache-2.0
"""The offline rows of every packed feature view as of the end of a day.

A row is written only where it changed since the view's previous day: a point-in-time join takes the
latest one. It knows nothing of Feast; the files are what Feast reads.
"""

from __future__ import annotations

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.config import DailyConfig
from components.console import progress
from components.features.counters import count_as_of, counter_columns, windows
from components.layout.files import write_parquet
from components.layout.paths import Layout
from components.log.columns import column, packed_bytes, records, select_list
from components.log.impressions import ImpressionLog, read_members, read_posts
from feature_repo.kinds import View
from feature_repo.quoting import duckdb_parquet
from feature_repo.spec import DAY_MS, Spec

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
    with ImpressionLog(layout, day) as log, progress("features", len(spec.views)) as advance:
        for view in spec.views:
            if view.kind == "counters":
                table = _counted(layout, log, view, day, spec)
            else:
                table = _static(layout, view, day, spec)
            write_parquet(layout.feature_day(view.name, day), table)
            written[view.name] = table.num_rows
            advance()
    return written


def previous_end(layout: Layout, view: str, day: str, spec: Spec) -> int | None:
    """The end of the latest earlier day that has rows of a view; None if this is the first."""
    days = [p.stem[4:] for p in layout.feature_dir(view).glob("day=*.parquet")]
    earlier = [d for d in days if d < day]
    return spec.day_end(max(earlier)) if earlier else None


def feature_rows(keys: pa.Table, event_ms: npt.NDArray[np.int64], value: pa.Array) -> pa.Table:
    """Rows as Feast reads them: keys, event and created timestamps (equal, UTC), `packed`."""
    times = pa.array(event_ms * 1000, pa.timestamp("us", tz="UTC"))
    # Built anew: whether a source declared its keys never null must not tell days apart.
    columns = {name: keys[name] for name in keys.column_names}
    stamps = {"event_timestamp": times, "created_timestamp": times}
    return pa.table({**columns, **stamps, "packed": value})


def _counted(layout: Layout, log: ImpressionLog, view: View, day: str, spec: Spec) -> pa.Table:
    end = spec.day_end(day)
    changed = log.query(_changed_keys(view, previous_end(layout, view.name, day, spec), end))
    names = select_list(view.keys)
    impressions = log.query(
        f"select {select_list(counter_columns(view))} from events "
        f"semi join changed using ({names}) where arrival_time < {end}",
        changed=changed,
    )
    cutoffs = np.full(changed.num_rows, end, np.int64)
    values = count_as_of(impressions, view, changed, cutoffs, spec)
    return feature_rows(changed, cutoffs, packed_bytes(values))


def _changed_keys(view: View, since: int | None, end: int) -> str:
    """SQL for the keys with an impression that arrived, or left a window, in [since, end)."""
    keys = select_list(view.keys)
    days = windows(view)
    only_windows = len(days) > 0 and all(f.counter and f.counter.days for f in view.features)
    where = [f"arrival_time < {end}"] + ["timed"] * only_windows
    if since is not None:
        moved = [f"arrival_time >= {since}"]
        for d in days:
            low, high = since - d * DAY_MS, end - d * DAY_MS
            moved.append(f"(timed and event_time >= {low} and event_time < {high})")
        where.append("(" + " or ".join(moved) + ")")
    return f"select distinct {keys} from events where {' and '.join(where)} order by {keys}"


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
    begins = previous_end(layout, view.name, day, spec) is None
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
    with duckdb.connect() as connection:
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
