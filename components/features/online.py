# SPDX-License-Identifier: Apache-2.0
"""Feast's online store as of the end of a day, and pushes of fresh histories between two days.

All through Feast's own API. The store never goes backwards: a day that is older than what was
materialized changes nothing, and a history that was pushed since stays. A view whose older files
were written anew is emptied and filled again. It computes no features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq

from components.config import DailyConfig
from components.console import progress
from components.features.histories import VIEW as HISTORY
from components.features.online_files import OnlineFiles
from components.features.store import apply_store, online_address, open_store, quiet, reachable
from components.layout.paths import Layout
from components.log.columns import column
from feature_repo.spec import DAY_MS, Spec
from serving.history import decode_history

READ_CHUNK = 2_000
"""Members whose online histories are read at once."""

PROBES = 16
"""Members that were brought online and are looked for: a store may be emptied, or another's."""


def materialize(layout: Layout, day: str, config: DailyConfig) -> dict[str, int]:
    """Applies the repository and brings every view's online rows to the end of `day`.

    Running a day twice, or again after a crash, leaves the same store.

    Returns:
        rows brought online by view; 0 where the store was already past the day.

    Raises:
        ValueError: the day's features were not built.
        ConnectionError: the online store cannot be reached.
    """
    spec = config.spec
    views = [*(v.name for v in spec.views), HISTORY]
    for name in views:
        path = layout.history_bucket(0) if name == HISTORY else layout.feature_day(name, day)
        if not path.is_file():
            raise ValueError(f"view {name} has no rows of {day}; run features and histories first")
    store = open_store(layout, config)
    apply_store(layout, spec, store)
    written = {}
    with reachable(store), progress("materialize", len(views)) as advance:
        online = _online_files(layout, store, spec)
        for name in views:
            with quiet():
                written[name] = _materialize_view(layout, store, name, day, spec, online)
            advance()
    return written


def push_history(store: Any, values: Mapping[int, bytes], time_ms: int, spec: Spec) -> int:
    """Pushes fresh history values online; returns how many were newer than what was there.

    Args:
        store: the run's `feast.FeatureStore`.
        values: history values by member.
        time_ms: as of when they were built.
        spec: decodes them; a value holds what its log held, so more impressions is newer.

    Raises:
        ValueError: a value that cannot be decoded; nothing is pushed then.
        ConnectionError: the online store cannot be reached.
    """
    counts = {member: _count(value, spec) for member, value in values.items()}
    with reachable(store):
        before = online_histories(store, list(values))
        fresh = [m for m in values if counts[m] > _count(before.get(m), spec)]
        if fresh:
            _push(store, {m: values[m] for m in fresh}, time_ms)
    return len(fresh)


def online_histories(store: Any, members: Sequence[int]) -> dict[int, bytes]:
    """The online history values of those of the members that have one."""
    values: dict[int, bytes] = {}
    for first in range(0, len(members), READ_CHUNK):
        part = list(members[first : first + READ_CHUNK])
        answer = store.get_online_features(
            features=[f"{HISTORY}:{HISTORY}"], entity_rows=[{"member_id": m} for m in part]
        ).to_dict()
        pairs = zip(answer["member_id"], answer[HISTORY], strict=True)
        values |= {int(member): value for member, value in pairs if value}
    return values


def _online_files(layout: Layout, store: Any, spec: Spec) -> OnlineFiles:
    """What is online; nothing where the store is another one, or has lost its rows."""
    path = layout.root / "ledger" / "online.json"
    kept = OnlineFiles(path, f"{online_address(store)}, {spec.hash}")
    if (last := kept.last_day(HISTORY)) and (built := _built(layout, spec.day_end(last))):
        there = online_histories(store, list(built))
        if any(not _is_ours(value, built[member], spec) for member, value in there.items()):
            # Another root's, which must not look like histories that were pushed.
            kept.forget(*kept.views)
            _empty(layout, store, HISTORY, spec)
        elif not there:
            kept.forget(*kept.views)
    return kept


def _built(layout: Layout, end_ms: int) -> dict[int, bytes]:
    """History values of some members who had no news since a time."""
    files = [str(path) for path in layout.history_buckets()]
    old = ds.field("event_timestamp") <= _utc(end_ms)
    rows = ds.dataset(files).head(PROBES, filter=old).to_pylist() if files else []
    return {row["member_id"]: row[HISTORY] for row in rows}


def _is_ours(online: bytes, built: bytes, spec: Spec) -> bool:
    """Whether an online history is what was built, or goes on from it, as one that was pushed."""
    if online == built:
        return True
    try:
        pushed, kept = decode_history(online, spec), decode_history(built, spec)
    except ValueError:
        return False
    first = max(pushed.start, kept.start)
    same = all(
        pushed.batch[name][first - pushed.start : kept.count - pushed.start].equals(
            kept.batch[name][first - kept.start :]
        )
        for name in ("post_id", "arrival_time")
    )
    return pushed.count > kept.count and (first >= kept.count or same)


def _count(value: bytes | None, spec: Spec) -> int:
    return decode_history(value, spec).count


def _materialize_view(
    layout: Layout, store: Any, name: str, day: str, spec: Spec, online: OnlineFiles
) -> int:
    """One view, from the end of what is online already; a day that is online is written again."""
    files, last = _files(layout, name, day), online.last_day(name)
    if last is not None and last > day:
        return 0
    pushed: dict[int, dict[int, bytes]] = {}
    done = store.get_feature_view(name).most_recent_end_time
    if online.changed(name, files) or (last is None and done is not None):
        # Redis refuses a row that is no newer than the one it has, and no row takes another away.
        pushed = _pushed(layout, store, spec, day) if name == HISTORY else {}
        online.forget(name)
        _empty(layout, store, name, spec)
        last = None
    end = spec.day_end(day)
    start = min(spec.day_end(last), end - DAY_MS) if last else 0
    written = _bring_online(store, name, start, end)
    for time_ms, values in pushed.items():
        _push(store, values, time_ms)
    online.note(name, files)
    return written


def _bring_online(store: Any, name: str, start: int, end: int) -> int:
    """Materializes a view's rows from a time to another; how many there were."""
    # Loaded here, since it imports the whole of Feast.
    from feature_repo.batch_engine import WRITTEN

    rows = 0

    def count(written: int) -> None:
        nonlocal rows
        rows += written

    token = WRITTEN.set(count)
    try:
        # An interval without rows is recorded too: the next day starts from here.
        store.materialize(_utc(start), _utc(end), feature_views=[name])
    finally:
        WRITTEN.reset(token)
    return rows


def _empty(layout: Layout, store: Any, name: str, spec: Spec) -> None:
    """Takes a view and its online rows away, and declares it again."""
    store.apply([], objects_to_delete=[store.get_feature_view(name)], partial=False)
    apply_store(layout, spec, store)


def _files(layout: Layout, name: str, day: str) -> dict[str, Path]:
    """What a view's rows through a day are made from, by day: its files, or of histories the log's.

    The values of members lie in files that every day writes anew.
    """
    if name == HISTORY:
        return {d: layout.impressions_day(d) for d in layout.impression_days() if d <= day}
    files = {p.stem[4:]: p for p in sorted(layout.feature_dir(name).glob("day=*.parquet"))}
    return {d: p for d, p in files.items() if d <= day}


def _pushed(layout: Layout, store: Any, spec: Spec, day: str) -> dict[int, dict[int, bytes]]:
    """Online histories that hold something newer than a day's end, by their time.

    They were pushed since, and an emptied view gets them back.
    """
    kept: dict[int, dict[int, bytes]] = {}
    end = spec.day_end(day)
    for path in layout.history_buckets():
        for batch in pq.ParquetFile(path).iter_batches(READ_CHUNK, columns=["member_id"]):
            members = column(batch, "member_id").tolist()
            for member, value in online_histories(store, members).items():
                arrival = decode_history(value, spec).batch.column("arrival_time")
                if len(arrival) and arrival[-1].as_py() >= end:
                    kept.setdefault(int(arrival[-1].as_py()) + 1, {})[member] = value
    return kept


def _push(store: Any, values: Mapping[int, bytes], time_ms: int) -> None:
    import pandas as pd
    from feast.data_source import PushMode

    from feature_repo.sources import HISTORY_PUSH

    when = pd.Timestamp(time_ms, unit="ms", tz="UTC")
    rows = pd.DataFrame(
        {
            "member_id": pd.Series(list(values), dtype="int64"),
            "event_timestamp": when,
            "created_timestamp": when,
            HISTORY: pd.Series(list(values.values()), dtype="object"),
        }
    )
    store.push(HISTORY_PUSH, rows, to=PushMode.ONLINE)


def _utc(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)
