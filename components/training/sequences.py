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
from components.log.columns import column, select_list
from components.log.impressions import ImpressionLog, history_order, with_content
from components.training.shards import BATCH_ROWS, ShardCounts, write_shards
from components.training.windows import Counts, Ints, Loss, Windows, windows
from feature_repo.spec import Freshness, Spec
from kernels.loader import AUXILIARY, TARGET

NO_LOSS = 0
"""An impression is only looked at; `TARGET` has context, `AUXILIARY` is trained on without."""

LONG_AGO = -(2**40)
"""A day before every day, for a cold start."""

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
        config: spec, freshness and store.
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
    context = PointInTimeContext(open_store(layout, config), spec)
    cut = Cut(
        mark=lambda impressions: [mark_loss(impressions, spec, after_day, through_day)],
        freshness=config.freshness,
        cap=after_day is None,
        as_of_ms=spec.day_end(through_day),
        members=_members_with_targets(spec, after_day, through_day),
    )
    with ImpressionLog(layout, day) as log:
        return write_sequences(log, cut, context, layout.sequences(split, day))


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What of a log becomes sequences.

    Attributes:
        mark: the losses, int8 `[N]` each, to build sequences of some members' impressions with, one
            after the other (`mark_loss`).
        freshness: how late serving is.
        cap: see `build_sequences`.
        as_of_ms: everything that is trained on was served before it.
        members: SQL for the members (`member_id`) and how many `rows` they have, in order.
    """

    mark: Callable[[pa.Table], Iterable[Loss]]
    freshness: Freshness
    cap: bool
    as_of_ms: int
    members: str = "select member_id, count(*) as rows from impressions group by 1 order by 1"


def write_sequences(log: ImpressionLog, cut: Cut, context: Context, folder: Path) -> ShardCounts:
    """Writes the sequences of a log to a folder of shards, some members at a time."""
    metadata = {
        "spec_hash": context.spec.hash,
        "freshness": cut.freshness,
        "as_of_ms": str(cut.as_of_ms),
    }
    members = log.query(cut.members)
    ids, rows = column(members, "member_id"), column(members, "rows")
    with (
        write_shards(folder, metadata) as shards,
        progress(f"{folder.name} sequences", len(ids)) as advance,
    ):
        for chunk in log.member_chunks(ids, rows, CHUNK_ROWS):
            for batch in _chunk_sequences(log, chunk, cut, context):
                shards.write(batch)
            advance(chunk.num_rows)
    return shards.counts


def _chunk_sequences(
    log: ImpressionLog, members: pa.Table, cut: Cut, context: Context
) -> Iterator[pa.RecordBatch]:
    """The sequences of some members, once for each way to mark their impressions."""
    names = select_list((*context.spec.impression_schema.names, "session_id"))
    query = f"select {names} from impressions semi join chunk using (member_id)"
    impressions = history_order(log.query(query, chunk=members))
    impressions = with_content(impressions, log.posts, context.spec)
    for loss in cut.mark(impressions):
        yield from build_sequences(impressions, loss, context, cut.freshness, cap=cut.cap)


def mark_loss(impressions: pa.Table, spec: Spec, after_day: str | None, through_day: str) -> Loss:
    """What each impression is in training between the watermark and a day: int8 `[N]`.

    Timed rows are targets by the day they were served. One that was served before the watermark and
    arrived too late for the run that set it (that run's log ended a day after its watermark) is a
    target now, so no impression is lost and none is trained on twice. Untimed rows newer than the
    watermark by arrival are auxiliary.
    """
    after = LONG_AGO if after_day is None else spec.day_number(after_day)
    through = spec.day_number(through_day)
    served, arrived = (spec.day(column(impressions, n)) for n in ("event_time", "arrival_time"))
    timed = column(impressions, "timed").astype(np.bool_)
    late = (served <= after) & (arrived > after + 1)
    target = timed & (served <= through) & ((served > after) | late)
    auxiliary = ~timed & (arrived > after) & (arrived <= through)
    return np.select([target, auxiliary], [TARGET, AUXILIARY], NO_LOSS).astype(np.int8)


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
            member's whole log in history order (`history_order`).
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


def _members_with_targets(spec: Spec, after_day: str | None, through_day: str) -> str:
    """SQL for the members with anything newer than the watermark, and how many rows they have."""
    through = spec.day_end(through_day)
    news = f"(timed and event_time < {through}) or (not timed and arrival_time < {through})"
    if after_day is not None:
        news = f"({news}) and arrival_time >= {spec.day_end(after_day)}"
    return (
        f"select member_id, count(*) as rows from impressions "
        f"group by member_id having bool_or({news}) order by member_id"
    )
