# SPDX-License-Identifier: Apache-2.0
"""Posts that were shown before anybody declared them, until somebody does.

An impression of an unknown post is counted for no author. Once the post is declared, what is
counted by author takes its past along, and reads for it the log since the post was first shown. It
keeps the ids of such posts and nothing of their impressions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.features.state import Origin
from components.layout.files import atomic_path
from components.layout.paths import Layout
from components.log.columns import Ints, column
from components.log.impressions import ImpressionLog, posts_of

SCHEMA = pa.schema({"post_id": pa.int64(), "first_day": pa.string()})


@dataclass(frozen=True, kw_only=True)
class Declared:
    """The posts that were shown by the end of a day, and were declared after it.

    Attributes:
        post_ids: theirs.
        first_day: when the first of them was shown; "" where there is none.
        complete: whether it is known that there are no others.
    """

    post_ids: Ints
    first_day: str
    complete: bool


def declared_since(layout: Layout, since_day: str | None, key: str) -> Declared:
    """The posts that the log through a day did not know, and that are known now.

    Args:
        layout: the run.
        since_day: the day; None is before the first, where nothing was shown.
        key: see `Origin`.
    """
    path, nothing = _path(layout), SCHEMA.empty_table()
    origin = Origin.of_file(path)
    unknown = pq.read_table(path) if origin else nothing
    known = posts_of(layout, column(unknown, "post_id")).select(["post_id"])
    found = unknown.join(known, "post_id", join_type="left semi")
    return Declared(
        post_ids=column(found, "post_id"),
        first_day=min(found["first_day"].to_pylist(), default=""),
        complete=since_day is None or origin == Origin.of_log(layout, since_day, key),
    )


def note_unknown(layout: Layout, day: str, key: str) -> None:
    """Keeps the posts that were shown through a day and are not known now."""
    path, wanted = _path(layout), Origin.of_log(layout, day, key)
    kept = Origin.of_file(path)
    if kept and kept.day > day and wanted.leads_to(kept):
        return
    carries = kept is not None and kept.leads_to(wanted)
    before = pq.read_table(path) if carries else SCHEMA.empty_table()
    since = kept.day if kept and carries else ""
    tables = [before, *(_shown(layout, d) for d in sorted(wanted.days) if d > since)]
    shown = pa.concat_tables(tables).group_by("post_id").aggregate([("first_day", "min")])
    known = posts_of(layout, column(shown, "post_id")).select(["post_id"])
    unknown = shown.join(known, "post_id", join_type="left anti").sort_by("post_id")
    table = unknown.rename_columns({"first_day_min": "first_day"}).select(SCHEMA.names)
    with atomic_path(path) as temporary:
        pq.write_table(table.cast(SCHEMA).replace_schema_metadata(wanted.metadata()), temporary)


def _shown(layout: Layout, day: str) -> pa.Table:
    """The posts that a day's impressions show and that nobody has declared."""
    with ImpressionLog(layout, day, {day}) as log:
        return log.query(
            f"select distinct post_id, '{day}' as first_day from impressions "
            "anti join posts using (post_id)"
        ).cast(SCHEMA)


def _path(layout: Layout) -> Path:
    return layout.state("unknown_posts") / "posts.parquet"
