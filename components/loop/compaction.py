# SPDX-License-Identifier: Apache-2.0
"""Day files of a feature view made one: the newest row of each key, as of the last of those days.

A day's file has only the rows that changed, so a key's newest row may lie in any earlier one. Rows
stay as they were written, their times too: whoever joins at a later time finds the same, and what
is online stays what it is. It knows columns, and not which days may go.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.features.online_files import OnlineFiles
from components.layout.files import parquet_writer
from components.layout.paths import Layout
from components.log.impressions import BATCH_ROWS, bounded_duckdb
from feature_repo.quoting import duckdb_parquet

TIMES = ("event_timestamp", "created_timestamp")
VALUES = (*TIMES, "packed")
"""The columns that are no keys."""
PASS_ROWS = 4_000_000
"""Rows from which the newest are chosen at once; bounds memory."""


def compact_view(layout: Layout, view: str, days: Sequence[str]) -> None:
    """Makes the file of the last of some days of a view hold the newest rows of all of them.

    What was online as those files said is so as the remaining ones say: nothing goes online again.
    One that is killed between the two leaves the view to be filled anew, with the same rows.

    Args:
        layout: the run's root; its lock is held.
        view: the feature view.
        days: its first ones, in order.
    """
    online, files = _online(layout), _files(layout, view)
    remaining = {day: path for day, path in files.items() if day >= days[-1]}
    known = not online.changed(view, files) or not online.changed(view, remaining)
    compact([files[day] for day in days])
    last = online.last_day(view)
    if known and last is not None:
        online.note(view, {day: path for day, path in remaining.items() if day <= last})


def compact(files: Sequence[Path]) -> None:
    """Makes the last of a view's day files hold the newest row of each key of all of them.

    The others stay, and say nothing more; with or without them the outcome is the same, byte for
    byte, so that whoever was killed on the way does it again.

    Args:
        files: by day.
    """
    last, schema = files[-1], pq.read_schema(files[-1])
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    passes = rows // PASS_ROWS + 1
    with bounded_duckdb() as connection, parquet_writer(last, schema) as writer:
        for number in range(passes):
            answer = connection.execute(_newest(files, schema, f"{passes} = {number}"))
            for batch in answer.to_arrow_reader(BATCH_ROWS):
                writer.write_table(pa.Table.from_batches([batch]).cast(schema))


def _newest(files: Sequence[Path], schema: pa.Schema, share: str) -> str:
    """SQL for the newest row of each key of a share of them, by key."""
    keys = ", ".join(f'"{name}"' for name in schema.names if name not in VALUES)
    newest = ", ".join(f"{name} desc" for name in TIMES)
    return (
        f"select * from {duckdb_parquet(files)} where hash({keys}) % {share} "
        f"qualify row_number() over (partition by {keys} order by {newest}) = 1 order by {keys}"
    )


def _files(layout: Layout, view: str) -> dict[str, Path]:
    files = layout.feature_dir(view).glob("day=*.parquet")
    return {path.stem[4:]: path for path in sorted(files)}


def _online(layout: Layout) -> OnlineFiles:
    """What is online, in whichever store."""
    path = layout.root / "ledger" / "online.json"
    kept: Mapping[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    online = OnlineFiles(path, "")
    online.store, online.views = str(kept.get("store", "")), dict(kept.get("online", {}))
    return online
