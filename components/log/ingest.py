# SPDX-License-Identifier: Apache-2.0
"""Ingest: a raw day becomes checked impressions, and every row that does not is accounted for.

Rows are checked, duplicates removed (also of what earlier days brought), sessions named and late
events counted; bad rows go to quarantine with the reason. Days are ingested in order; a day that is
run again leaves the same bytes. This module knows nothing of features or of the log's source.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds

from components.layout.files import write_json, write_parquet
from components.layout.paths import Layout
from components.log.checks import (
    MAX_LATE_DAYS,
    Mask,
    impression_reasons,
    member_reasons,
    post_reasons,
    values,
)
from components.log.schema import check_schema, read_table
from components.log.sessions import NO_SESSION, gap_sessions, request_sessions, untimed_sessions
from components.log.times import Units
from feature_repo.spec import Spec

if TYPE_CHECKING:
    from components.config import DailyConfig

DIFFERS = "differs from an earlier row of the same impression"
DECLARED = "differs from an earlier declaration of the same post"
KEY = ("member_id", "post_id", "event_time")


@dataclass(frozen=True, kw_only=True)
class TableCounts:
    """What became of the rows of the raw posts or members table; `replaced` by a later row."""

    read: int
    kept: int
    duplicates: int
    replaced: int
    quarantined: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class IngestCounts:
    """What became of a raw day's rows: read = kept + duplicates + all quarantined.

    Attributes:
        quarantined: rows by reason.
        late: kept rows served on an earlier local day than they arrived.
        untimed: kept rows whose order is known and time is not.
        unknown_posts: kept rows whose post has no content.
        unknown_members: kept rows whose member has no profile.
        sessions: distinct sessions among the kept rows.
        ignored_columns: columns of the raw files that the spec does not name.
    """

    day: str
    read: int
    kept: int
    duplicates: int
    quarantined: dict[str, int]
    late: int
    untimed: int
    unknown_posts: int
    unknown_members: int
    sessions: int
    ignored_columns: list[str]
    posts: TableCounts
    members: TableCounts


def ingest(layout: Layout, day: str, config: DailyConfig) -> IngestCounts:
    """Checks what arrived on a day and writes it in history order, with session ids.

    Reads `raw/`, and the impressions of the seven days before. Writes impressions, quarantine and
    counts of the day, and the posts and members tables (with a quarantine each).

    Raises:
        ValueError: a file is missing or unreadable, a column is missing or of another type, or
            its times are in another unit than milliseconds; nothing is written then.
    """
    spec, number = config.spec, config.spec.day_number(day)
    ignored = _ignored_columns(layout, day, spec)
    raw = read_table(layout.raw_day(day), spec.event_schema)
    _check_units(layout, day, raw, spec)
    posts, post_counts = _posts(layout, spec, day)
    members, member_counts = _members(layout, spec)
    kept, duplicate, reasons = _sort_out(layout, spec, number, raw)
    write_parquet(layout.quarantine_day(day), _refused(raw, reasons))
    write_parquet(layout.impressions_day(day), kept)
    timed, event_day = values(kept["timed"]), spec.day(values(kept["event_time"]))
    counts = IngestCounts(
        day=day,
        read=raw.num_rows,
        kept=kept.num_rows,
        duplicates=int(duplicate.sum()),
        quarantined=_tally(reasons),
        late=int((timed & (event_day < number)).sum()),
        untimed=int((~timed).sum()),
        unknown_posts=_absent(kept["post_id"], posts["post_id"]),
        unknown_members=_absent(kept["member_id"], members["member_id"]),
        sessions=len(np.unique(values(kept["session_id"]))),
        ignored_columns=ignored,
        posts=post_counts,
        members=member_counts,
    )
    assert counts.read == counts.kept + counts.duplicates + sum(counts.quarantined.values())
    write_json(layout.ingest_counts(day), asdict(counts))
    return counts


def refuse_nothing(layout: Layout, day: str) -> None:
    """ValueError, with the tally, where an ingested day kept no row: no model can be judged by it.

    A day between others may be quiet: only the one that a run is for must hold something.
    """
    counts = json.loads(layout.ingest_counts(day).read_text())
    if counts["kept"]:
        return
    if not counts["read"]:
        raise ValueError(
            f"{layout.raw_day(day)} holds no rows: there is nothing of {day} to rank; "
            "choose another day, or bring the log again"
        )
    parts = [f"{counts['read']:,} read", f"{counts['duplicates']:,} duplicates of earlier rows"]
    refused = sorted(counts["quarantined"].items(), key=lambda item: (-item[1], item[0]))
    if refused:
        tally = "; ".join(f"{reason}: {count:,}" for reason, count in refused)
        parts.append(f"{sum(count for _, count in refused):,} refused ({tally})")
        where = f"; look at {layout.quarantine_day(day)}, mend the log and bring it again"
    else:
        where = "; choose another day, or bring a log with new rows"
    raise ValueError(f"no row of {day} was kept: {', '.join(parts)}{where}")


def _ignored_columns(layout: Layout, day: str, spec: Spec) -> list[str]:
    """Checks the three schemas and returns the columns the spec does not name."""
    impressions = check_schema(layout.raw_day(day), spec.event_schema)
    posts = check_schema(layout.raw_posts, spec.post_schema)
    return sorted(impressions + posts + check_schema(layout.raw_members, spec.member_schema))


def _check_units(layout: Layout, day: str, raw: pa.Table, spec: Spec) -> None:
    """ValueError where a column has times, and none of them in milliseconds."""
    made = read_table(layout.raw_posts, pa.schema([spec.post_schema.field("created_ms")]))
    columns = {f"{layout.raw_day(day)}: {n}": raw[n] for n in ("event_time", "arrival_time")}
    columns[f"{layout.raw_posts}: created_ms"] = made["created_ms"]
    for name, column in columns.items():
        units = Units()
        units.add(values(column.drop_null()))
        if units.wrong and not units.count("milliseconds"):
            units.refuse(name)


def _sort_out(
    layout: Layout, spec: Spec, day: int, raw: pa.Table
) -> tuple[pa.Table, Mask, npt.NDArray[np.str_]]:
    """The kept rows in history order, which rows are duplicates, and why the others are refused."""
    reasons = impression_reasons(raw, spec, day)
    earlier = _earlier(layout, spec, day, raw.filter(reasons == ""))
    duplicate, differs = _repeats(raw, reasons == "", earlier)
    reasons = np.where(differs, DIFFERS, reasons)
    kept = _with_sessions(raw.filter((reasons == "") & ~duplicate), earlier, spec)
    return _in_order(kept), duplicate, reasons


def _posts(layout: Layout, spec: Spec, day: str) -> tuple[pa.Table, TableCounts]:
    """The first declaration of each post, earlier days' before this one: content is immutable,
    another one is refused. The first day of a log begins anew.
    """
    raw = read_table(layout.raw_posts, spec.post_schema)
    reasons = post_reasons(raw, spec)
    declared = raw.slice(0, 0)
    if layout.posts.is_file() and any(d < day for d in layout.impression_days()):
        declared = read_table(layout.posts, spec.post_schema)
    known, both = declared.num_rows, pa.concat_tables([declared, raw])
    good = np.append(np.ones(known, np.bool_), reasons == "")
    first = _first_of(both, good, ("post_id",))
    same = _same(both, first)[known:]
    reasons = np.where((reasons == "") & ~same, DECLARED, reasons)
    stands = first == np.arange(len(first))
    table = both.filter(good & stands).sort_by("post_id").cast(spec.post_schema)
    # A post that an earlier day declared is kept like a new one: a day run again counts the same.
    ones = _first_of(raw, reasons == "", ("post_id",)) == np.arange(raw.num_rows)
    again = (reasons == "") & ~ones
    write_parquet(layout.root / "quarantine" / "posts.parquet", _refused(raw, reasons))
    write_parquet(layout.posts, table)
    return table, _table_counts(raw, again, np.zeros_like(again), reasons)


def _members(layout: Layout, spec: Spec) -> tuple[pa.Table, TableCounts]:
    """The last row of each member: a profile may change."""
    raw = read_table(layout.raw_members, spec.member_schema)
    reasons = member_reasons(raw, spec)
    backwards = raw.take(np.arange(raw.num_rows)[::-1])
    last = raw.num_rows - 1 - _first_of(backwards, reasons[::-1] == "", ("member_id",))[::-1]
    again = (reasons == "") & (last != np.arange(raw.num_rows))
    same = again & _same(raw, last)
    kept = raw.filter((reasons == "") & ~again).sort_by("member_id").cast(spec.member_schema)
    write_parquet(layout.root / "quarantine" / "members.parquet", _refused(raw, reasons))
    write_parquet(layout.members, kept)
    return kept, _table_counts(raw, same, again & ~same, reasons)


def _table_counts(
    raw: pa.Table, same: Mask, replaced: Mask, reasons: npt.NDArray[np.str_]
) -> TableCounts:
    return TableCounts(
        read=raw.num_rows,
        kept=int(((reasons == "") & ~same & ~replaced).sum()),
        duplicates=int(same.sum()),
        replaced=int(replaced.sum()),
        quarantined=_tally(reasons),
    )


def _earlier(layout: Layout, spec: Spec, day: int, good: pa.Table) -> pa.Table:
    """Earlier days' impressions that today's may repeat or continue: none where none can be."""
    schema = spec.event_schema.append(pa.field("session_id", pa.int64(), nullable=False))
    event = values(good["event_time"])
    gapped = _gapped(good)
    since = [event[event < spec.day_start(day)], event[gapped] - spec.session_gap_ms]
    names = [spec.day_name(d) for d in range(day - MAX_LATE_DAYS, day)]
    files = [p for p in map(layout.impressions_day, names) if p.is_file()]
    if not files or not any(len(part) for part in since):
        return schema.empty_table()
    start = min(int(part.min()) for part in since if len(part))
    for file in files:
        check_schema(file, schema)
    data = ds.dataset([str(file) for file in files], schema=schema)
    return data.to_table(filter=ds.field("event_time") >= start)


def _repeats(raw: pa.Table, good: Mask, earlier: pa.Table) -> tuple[Mask, Mask]:
    """Which good rows repeat an impression: exactly (but for the arrival), or with a difference.

    The first to arrive stands; an earlier day's row before any of today's.
    """
    known = earlier.num_rows
    both = pa.concat_tables([earlier.select(raw.column_names).cast(raw.schema), raw])
    first = _first_of(both, np.append(np.ones(known, np.bool_), good), KEY, known)
    again = good & (first[known:] != known + np.arange(raw.num_rows))
    same = np.zeros(raw.num_rows, np.bool_)
    same[again] = _same(both.drop_columns("arrival_time"), first)[known:][again]
    return again & same, again & ~same


def _first_of(
    table: pa.Table, good: Mask, key: tuple[str, ...], known: int = 0
) -> npt.NDArray[np.int64]:
    """For each row the first good row with its key `[N]`; for a bad row the row itself.

    The `known` leading rows come first, then the order of arrival where it is a column, then rows.
    """
    first = np.arange(table.num_rows)
    rows = np.flatnonzero(good)
    keys = [values(table[name])[rows] for name in reversed(key)]
    if "arrival_time" in table.column_names:
        keys = [values(table["arrival_time"])[rows], rows >= known, *keys]
    order = np.lexsort([rows, *keys])
    starts = np.ones(len(order), np.bool_)
    changed = [np.diff(k[order]) != 0 for k in keys[-len(key) :]]
    starts[1:] = np.logical_or.reduce(changed) if len(order) else starts[1:]
    head = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    first[rows[order]] = rows[order][head]
    return first


def _same(table: pa.Table, other: npt.NDArray[np.int64]) -> Mask:
    """Whether each row holds the same bits as the row `other[i]`, nulls included."""
    moved = np.flatnonzero(other != np.arange(table.num_rows))
    same = np.ones(table.num_rows, np.bool_)
    if not len(moved):
        return same
    left, right = table.take(moved), table.take(other[moved])
    equal = np.ones(len(moved), np.bool_)
    for name in table.column_names:
        equal &= np.asarray(left[name].is_null()) == np.asarray(right[name].is_null())
        a, b = (np.ascontiguousarray(values(side[name])) for side in (left, right))
        bits = (a.view(np.uint8) == b.view(np.uint8)).reshape(len(moved), -1)
        equal &= bits.all(1)
    same[moved] = equal
    return same


def _gapped(table: pa.Table) -> Mask:
    """Rows whose session is known by a pause only."""
    return np.asarray(table["request_id"].is_null()) & values(table["timed"])


def _with_sessions(good: pa.Table, earlier: pa.Table, spec: Spec) -> pa.Table:
    """The rows with `session_id`, as the spec's schema."""
    member, event = values(good["member_id"]), values(good["event_time"])
    session = request_sessions(member, values(good["request_id"]))
    untimed, gapped = ~values(good["timed"]), _gapped(good)
    post = values(good["post_id"])
    session[untimed] = untimed_sessions(member[untimed], event[untimed], post[untimed])
    before = earlier.filter(_gapped(earlier))
    session[gapped] = gap_sessions(
        np.append(values(before["member_id"]), member[gapped]),
        np.append(values(before["event_time"]), event[gapped]),
        np.append(values(before["session_id"]), np.full(int(gapped.sum()), NO_SESSION)),
        spec.session_gap_ms,
    )[before.num_rows :]
    field = pa.field("session_id", pa.int64(), nullable=False)
    return good.cast(spec.event_schema).append_column(field, pa.array(session))


def _in_order(table: pa.Table) -> pa.Table:
    names = ("post_id", "member_id", "event_time", "arrival_time")
    return table.take(np.lexsort([values(table[name]) for name in names])).combine_chunks()


def _refused(raw: pa.Table, reasons: npt.NDArray[np.str_]) -> pa.Table:
    """The quarantined rows as they came, with `reason`."""
    bad = reasons != ""
    return raw.filter(bad).append_column("reason", pa.array(reasons[bad].tolist(), pa.string()))


def _tally(reasons: npt.NDArray[np.str_]) -> dict[str, int]:
    return dict(sorted(Counter(reasons[reasons != ""].tolist()).items()))


def _absent(ids: pa.ChunkedArray, known: pa.ChunkedArray) -> int:
    return int((~np.isin(values(ids), values(known))).sum())
