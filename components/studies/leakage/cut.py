# SPDX-License-Identifier: Apache-2.0
"""Shards as serving would have known them had it ranked each session whole, before its feedback.

Shards that were built with freshness "immediate" let an impression see everything that had arrived
before it, feedback of its own session included. Here the same sequences are written again with
`known` and the counters cut to what was known when the session began. Targets, labels, order and
the other context features stay as they were. This module knows no ranker.

Shape suffixes: M impressions of all sequences, packed; R targets; C context columns; N sessions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.features.counters import count_as_of, counted_query
from components.layout.paths import Layout
from components.log.impressions import ImpressionLog
from components.training.data import shard_format, shard_paths
from components.training.shards import write_shards
from feature_repo.spec import Spec
from kernels.loader import TARGET, Packed, read_shard

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Sessions = Literal["logged", "pause"]
SESSIONS: tuple[Sessions, ...] = ("logged", "pause")


@dataclass(frozen=True, kw_only=True)
class SessionCut:
    """How sessions are told apart, and what is cut to their beginning.

    Attributes:
        spec: names columns and views.
        sessions: "logged" takes ingest's sessions: the request where one is logged, else runs
            without a pause; "pause" takes the latter everywhere, so that a visit of several
            requests is one session.
        counted: the impressions with the columns that counters read (`counted_query` of
            `components.features.counters`): counters are cut too; None leaves the context as it
            was.
    """

    spec: Spec
    sessions: Sessions = "logged"
    counted: pa.Table | None = None

    def with_counters(self, layout: Layout, through_day: str) -> SessionCut:
        """The cut that counts anew over what had arrived by the end of a day."""
        with ImpressionLog(layout, through_day) as impressions:
            return replace(self, counted=impressions.query(counted_query(self.spec)))


def session_numbers(packed: Packed, cut: SessionCut) -> Ints:
    """The session of each impression, int64 `[M]` in [0, N); each of one sequence alone.

    An untimed impression, and one without a session, is a session of its own.

    Args:
        packed: sequences with `event_time`, `session_id` and `timed`.
    """
    sequence_M = np.repeat(np.arange(packed.num_sequences), packed.lengths_S)
    place_M = np.arange(packed.num_impressions)
    session_M, time_M = (packed.columns[n] for n in ("session_id", "event_time"))
    alone_M = ~packed.columns["timed"].astype(np.bool_)
    if cut.sessions == "logged":
        alone_M |= session_M < 0
        order = np.lexsort((session_M, alone_M, sequence_M))
        breaks = np.diff(session_M[order]) != 0
    else:
        order = np.lexsort((time_M, alone_M, sequence_M))
        breaks = np.diff(time_M[order]) > cut.spec.session_gap_ms
    starts = np.ones(len(place_M), np.bool_)
    starts[1:] = breaks | (np.diff(sequence_M[order]) != 0) | alone_M[order][1:]
    number_M = np.empty(len(place_M), np.int64)
    number_M[order] = np.cumsum(starts) - 1
    return number_M


def cut_known(known_M: Array, session_M: Ints) -> npt.NDArray[np.int32]:
    """`known` as it was when each impression's session began: int32 `[M]`, never above `known_M`.

    It is the least that any impression of the session knew. None of the session's own is among it:
    the session's first impression in a sequence knew those before it at most.

    Args:
        known_M: int32, counted from the sequence's first impression; never above an impression's
            own place there.
        session_M: int64, as `session_numbers` gives them.
    """
    return _least(known_M, session_M)[session_M].astype(np.int32)


def _least(values_M: Array, session_M: Ints) -> Ints:
    """The least value of each session, int64 `[N]`."""
    least = np.full(int(session_M.max()) + 1 if len(session_M) else 0, np.iinfo(np.int64).max)
    np.minimum.at(least, session_M, values_M)
    return least


def write_cut(source: Path, target: Path, cut: SessionCut) -> dict[str, int]:
    """Writes the shards of one folder to another, cut to the beginning of sessions.

    Returns:
        targets; known_cut, the targets that knew feedback of their own session; and of the
        sessions with a target how many there are (sessions), and have several impressions
        (sessions_of_many).

    Raises:
        ValueError: a shard is missing or broken, or holds no column of a counter's key.
    """
    counts = dict.fromkeys(("targets", "known_cut", "sessions", "sessions_of_many"), 0)
    paths = shard_paths(source)
    with pa.memory_map(str(paths[0])) as file:
        kept = pa.ipc.open_file(file).schema.metadata or {}
    metadata = {k.decode(): v.decode() for k, v in kept.items()}
    metadata |= {"sessions": cut.sessions, "counters_cut": str(cut.counted is not None)}
    with write_shards(target, metadata) as shards:
        for path in paths:
            packed, session_M = _read(path, cut)
            changed = _cut(packed, session_M, cut)
            _count(counts, packed, changed.columns["known"], session_M)
            for batch in _rewritten(path, changed):
                shards.write(batch)
    return counts


def _read(path: Path, cut: SessionCut) -> tuple[Packed, Ints]:
    """A shard's columns that the cut needs, checked, and the session of each impression."""
    names = {"event_time", "session_id", "timed"}
    if cut.counted is not None:
        keys = {k for v in cut.spec.views if v.kind == "counters" for k in v.keys}
        names |= keys - {"member_id"}
    for name in sorted(names - set(cut.spec.history_schema.names)):
        raise ValueError(
            f"spec {cut.spec.name}: {name} is no sequence feature, so that the counters by it "
            "cannot be cut; leave the counters as they are"
        )
    columns = {n: cut.spec.history_schema.field(n).type for n in sorted(names)}
    packed = read_shard(path, replace(shard_format(cut.spec), columns=columns))
    return packed, session_numbers(packed, cut)


def _cut(packed: Packed, session_M: Ints, cut: SessionCut) -> Packed:
    known_M = cut_known(packed.columns["known"], session_M)
    context_RC = packed.context_RC
    if cut.counted is not None:
        began_M = _least(packed.columns["event_time"], session_M)[session_M]
        context_RC = cut_counters(packed, began_M, cut.spec, cut.counted)
    return replace(packed, columns={**packed.columns, "known": known_M}, context_RC=context_RC)


def cut_counters(
    packed: Packed, cutoff_M: Ints, spec: Spec, counted: pa.Table
) -> npt.NDArray[np.float32]:
    """The context of the targets, float32 `[R, C]`, with each counter as of another cutoff.

    Args:
        packed: sequences with the columns that are keys of counter views.
        cutoff_M: int64 ms; what arrived before it counts.
        counted: the impressions with the columns that counters read.
    """
    target_R = np.flatnonzero(packed.columns["loss"] == TARGET)
    member_M = np.repeat(packed.keys["member_id"], packed.lengths_S)
    columns = {**packed.columns, "member_id": member_M}
    context_RC = packed.context_RC.copy()
    for view in spec.views:
        if view.kind != "counters":
            continue
        keys = pa.table({n: pa.array(columns[n][target_R], pa.int64()) for n in view.keys})
        counts = count_as_of(counted, view, keys, cutoff_M[target_R], spec)
        for feature in view.features:
            context_RC[:, spec.context_slices[feature.name]] = counts[feature.name][:, None]
    return context_RC


def _count(counts: dict[str, int], packed: Packed, known_M: Array, session_M: Ints) -> None:
    target_M = packed.columns["loss"] == TARGET
    size = np.bincount(session_M)[np.unique(session_M[target_M])]
    counts["targets"] += int(target_M.sum())
    counts["known_cut"] += int((known_M < packed.columns["known"])[target_M].sum())
    counts["sessions"] += len(size)
    counts["sessions_of_many"] += int((size > 1).sum())


def _rewritten(path: Path, packed: Packed) -> Iterator[pa.RecordBatch]:
    """The record batches of a shard with the pack's `known` and `context`."""
    first = 0
    with pa.memory_map(str(path)) as file:
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            yield _with_lists(batch, _cut_lists(packed, first, first + batch.num_rows))
            first += batch.num_rows


def _cut_lists(packed: Packed, first: int, last: int) -> dict[str, pa.ListArray]:
    """What was cut of the sequences in [first, last), a list a sequence."""
    width = packed.context_RC.shape[1]
    known, known_S = packed.columns["known"], packed.cu_seqlens[first : last + 1]
    context, context_S = packed.context_RC.reshape(-1), packed.cu_targets[first : last + 1] * width
    return {"known": _lists(known, known_S), "context": _lists(context, context_S)}


def _lists(values: Array, starts: Array) -> pa.ListArray:
    """The values from each start to the next, as an array of lists."""
    offsets = pa.array(starts - starts[0], pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(values[starts[0] : starts[-1]]))


def _with_lists(batch: pa.RecordBatch, lists: dict[str, pa.ListArray]) -> pa.RecordBatch:
    for name, column in lists.items():
        batch = batch.set_column(batch.schema.get_field_index(name), name, column)
    return batch
