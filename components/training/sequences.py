# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation sequences: each member's window with targets, as packed Arrow shards.

`build_sequences` is a pure function of impressions; the daily step and the backtest differ only in
where the context features of the targets come from (`components.features.context`). It never
trains.

A sequence's window starts where the history of its first target started when that was served. The
loss is on the targets alone; everything older is what they may look at.

Shape suffixes: N impressions of some members' logs; S sequences; M impressions of the sequences;
R targets; C context columns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.config import DailyConfig
from components.console import progress
from components.features.context import Context, PointInTimeContext
from components.features.history_columns import history_batch
from components.features.store import open_store
from components.layout.paths import Layout
from components.log.columns import Ints, column
from components.log.engines import Engine, LocalEngine, engine_named
from components.log.impressions import ImpressionLog
from components.training.shards import BATCH_ROWS, ShardCounts, write_shards
from components.training.windows import (
    Counts,
    Loss,
    MemberLogs,
    Windows,
    logs_of_a_day,
    mark_loss,
    windows,
)
from feature_repo.spec import Freshness
from kernels.loader import TARGET

CHUNK_ROWS = 400_000
"""Impressions of whole members that become sequences at once; bounds memory."""

Split = Literal["train", "eval"]


def sequences(
    layout: Layout,
    day: str,
    config: DailyConfig,
    split: Split,
    after_day: str | None,
    through_day: str,
) -> ShardCounts:
    """Writes `sequences/<split>-<day>/*.arrow` from the log as it had arrived by the end of `day`.

    Args:
        layout: the run.
        day: the as-of day D.
        config: spec, freshness, store and engine.
        split: "train" or "eval"; where the shards go.
        after_day: the watermark; None is a cold start.
        through_day: targets are impressions served after the watermark and through this day.

    Raises:
        ValueError: nothing is ingested through the day, or the features were not built.
    """
    spec = config.spec
    for view in spec.views:
        if not layout.feature_day(view.name, day).is_file():
            raise ValueError(f"view {view.name} has no rows of {day}; run features first")
    logs = logs_of_a_day(layout, day, config, after_day, through_day)
    cut = Cut(
        mark=lambda impressions: [mark_loss(impressions, spec, after_day, through_day)],
        freshness=config.freshness,
        cap=after_day is None,
        as_of_ms=spec.day_end(through_day),
    )
    work = Work(logs, cut, lambda: PointInTimeContext(open_store(layout, config), spec))
    engine = engine_named(config.engine, layout.root)
    return write_sequences(work, layout.sequences(split, day), spec.hash, engine)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What of a log becomes sequences.

    Attributes:
        mark: the losses, int8 `[N]` each, to build sequences of some members' impressions with, one
            after the other (`mark_loss`).
        freshness: how late serving is.
        cap: see `build_sequences`.
        as_of_ms: everything that is trained on was served before it.
    """

    mark: Callable[[pa.Table], Iterable[Loss]]
    freshness: Freshness
    cap: bool
    as_of_ms: int


class Work:
    """Makes the sequences of some members; any process that sees the run's files can.

    Args:
        logs: the members' impressions.
        cut: what of them becomes sequences.
        open_context: gives the context features of the targets; it is opened where the work is.
    """

    def __init__(self, logs: MemberLogs, cut: Cut, open_context: Callable[[], Context]) -> None:
        self.logs, self.cut, self._open_context = logs, cut, open_context

    def __call__(self, members: pa.Table) -> Iterator[pa.RecordBatch]:
        """The sequences of some members, once for each way to mark their impressions."""
        impressions = self.logs.impressions(column(members, "member_id"))
        for loss in self.cut.mark(impressions):
            yield from build_sequences(
                impressions, loss, self._context, self.cut.freshness, cap=self.cut.cap
            )

    @functools.cached_property
    def _context(self) -> Context:
        return self._open_context()


def write_sequences(
    work: Work, folder: Path, spec_hash: str, engine: Engine | None = None
) -> ShardCounts:
    """Writes the sequences of all members to a folder of shards, some members at a time."""
    metadata = {
        "spec_hash": spec_hash,
        "freshness": work.cut.freshness,
        "as_of_ms": str(work.cut.as_of_ms),
    }
    members = work.logs.members()
    ids, rows = column(members, "member_id"), column(members, "rows")
    with (
        write_shards(folder, metadata) as shards,
        progress(f"{folder.name} sequences", len(ids)) as advance,
    ):

        def chunks() -> Iterator[pa.Table]:
            for chunk in ImpressionLog.member_chunks(ids, rows, CHUNK_ROWS):
                yield chunk
                advance(chunk.num_rows)

        for batch in (engine or LocalEngine()).each(chunks(), work):
            shards.write(batch)
    return shards.counts


def build_sequences(
    impressions: pa.Table,
    loss_N: Loss,
    context: Context,
    freshness: Freshness,
    *,
    cap: bool = True,
) -> Iterator[pa.RecordBatch]:
    """One row per member with a target, as the shards hold them, at most 256 rows a batch.

    Args:
        impressions: of any members, with their content (`with_content`), members ascending, each
            member's whole log in history order (`history_order`), or the newest of it with their
            `index` in it.
        loss_N: int8, what each impression is (`mark_loss`).
        context: gives the context features of the targets, and the spec.
        freshness: how late serving is; decides what each impression knew.
        cap: keep at most T + B - 1 impressions of a member (a cold start, where the first target
            is the first impression); without it a sequence holds the window of its first target.
    """
    spec = context.spec
    held = windows(impressions, loss_N, spec, freshness, cap=cap)
    position_M = held.positions_M()
    impressions, loss_M = impressions.take(pa.array(position_M)), loss_N[position_M]
    target_R = np.flatnonzero(loss_M == TARGET)
    packed = _Packed(
        windows=held,
        known_M=held.known_N[position_M],
        loss_M=loss_M,
        target_R=target_R,
        context_RC=context.matrix(impressions.take(pa.array(target_R))),
        history=history_batch(
            impressions, spec, context.views(impressions) if spec.fused_early else None
        ),
    )
    for first in range(0, len(held.member_S), BATCH_ROWS):
        yield packed.rows(first, min(first + BATCH_ROWS, len(held.member_S)))


@dataclass(frozen=True, kw_only=True)
class _Packed:
    """S sequences side by side.

    Attributes:
        windows: what each of them holds.
        known_M: int32, how many impressions of its window each one knew.
        loss_M: int8, what each impression is.
        target_R: int64, where the targets are among the M impressions.
        context_RC: float32, the targets' context features.
        history: the M impressions with the fields of a history.
    """

    windows: Windows
    known_M: Counts
    loss_M: Loss
    target_R: Ints
    context_RC: npt.NDArray[np.float32]
    history: pa.RecordBatch

    def rows(self, first: int, end: int) -> pa.RecordBatch:
        """The shard rows of some of the sequences."""
        offsets = self.windows.offsets[first : end + 1]
        held = slice(offsets[0], offsets[-1])
        columns: dict[str, pa.Array] = {
            "member_id": pa.array(self.windows.member_S[first:end], pa.int64()),
            "start": pa.array(self.windows.start_S[first:end], pa.int64()),
        }
        values = {
            name: array[held]
            for name, array in zip(self.history.schema.names, self.history.columns, strict=True)
        }
        # Cut before they are Arrow's, whose writer pads a cut array with what lies behind it.
        values["known"] = pa.array(self.known_M[held], pa.int32())
        values["loss"] = pa.array(self.loss_M[held], pa.int8())
        for name, array in values.items():
            columns[name] = _lists(offsets - held.start, array)
        columns["context"] = self._context_lists(offsets)
        return pa.RecordBatch.from_pydict(columns)

    def _context_lists(self, offsets: Ints) -> pa.ListArray:
        """The context features of each sequence's targets, C values for each."""
        targets = np.searchsorted(self.target_R, offsets)
        values = self.context_RC[targets[0] : targets[-1]].reshape(-1)
        width = self.context_RC.shape[1]
        return _lists((targets - targets[0]) * width, pa.array(values, pa.float32()))


def _lists(offsets: Ints, values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
