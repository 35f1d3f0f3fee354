# SPDX-License-Identifier: Apache-2.0
"""A served request made again offline: the log, Feast's point-in-time join, the trained model.

It shares with serving the pure functions alone (`serving.assemble`, the codec, the batch); every
value comes from the offline files. What differs is for `components.evaluation.differences` to say.

Shape suffixes: N candidates, C context columns, K tasks, M impressions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from components.config import DailyConfig
from components.evaluation.requests import LoggedRequest
from components.features.context import PointInTimeContext
from components.features.history_columns import encode_histories
from components.features.store import open_store
from components.features.window_files import WindowFiles
from components.features.window_state import INDEX, logged_rows, window_rows_schema
from components.layout.paths import Layout
from components.log.columns import Ints, column, records
from components.log.impressions import Posts, with_content
from components.training.windows.member_logs import WholeLogs
from feature_repo.kinds import UNKNOWN, Binary, Kind
from feature_repo.spec import Freshness, Spec
from model.batch import Impressions, RankBatch, TrainBatch
from model.ranker import Ranker
from serving.assemble import sequence_features
from serving.history import decode_history
from serving.predictor.rank_batch import SERVING_POSITION, build_rank_batch
from serving.wire import RankRequest


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """A request's inputs as the offline side has them.

    Attributes:
        history: the value the offline builder makes, b"" for a member without impressions.
        features: sequence features of the candidates by name.
        context_NC: float32, NaN where missing.
    """

    history: bytes
    features: dict[str, npt.NDArray[Any]]
    context_NC: npt.NDArray[np.float32]

    def request(self, spec: Spec, time_ms: int) -> RankRequest:
        """The same as a request to the model."""
        return RankRequest(
            history=decode_history(self.history, spec),
            features=self.features,
            context_NC=self.context_NC,
            time_ms=time_ms,
        )


class Offline:
    """The offline side of a run."""

    def __init__(self, layout: Layout, config: DailyConfig) -> None:
        self.layout, self.config, self.spec = layout, config, config.spec
        self._context = PointInTimeContext(open_store(layout, config), config.spec)
        self._posts = Posts(layout)

    def replay(self, logged: Sequence[LoggedRequest], as_of_ms: int) -> list[Replayed]:
        """Served requests again, all of them answered when the store was as of `as_of_ms`.

        Args:
            logged: requests in any order.
            as_of_ms: what had arrived before it, and posts made before it, were known.
        """
        if not logged:
            return []
        values = self._histories(sorted({each.member_id for each in logged}), as_of_ms)
        posts = self._posts.of(np.array([p for each in logged for p in each.post_ids], np.int64))
        known = posts.filter(pa.array(column(posts, "created_ms") < as_of_ms))
        tables = [with_content(_impressions(each), known, self.spec) for each in logged]
        contexts = self._context.matrix(pa.concat_tables(tables))
        parts = np.split(contexts, np.cumsum([t.num_rows for t in tables])[:-1])
        return [
            Replayed(
                history=values.get(each.member_id, b""),
                features=self._features(each, table),
                context_NC=context_NC,
            )
            for each, table, context_NC in zip(logged, tables, parts, strict=True)
        ]

    def _features(self, logged: LoggedRequest, table: pa.Table) -> dict[str, npt.NDArray[Any]]:
        content, ids = records(table, self.spec.content), column(table, "post_id")
        return sequence_features(self.spec, ids, content, logged.request, logged.time_ms)

    def _histories(self, members: Sequence[int], as_of_ms: int) -> dict[int, bytes]:
        """History values by member, of what had arrived before `as_of_ms`."""
        ids, day = np.array(members, np.int64), self.layout.impression_days()[-1]
        files = WindowFiles(self.layout, day, self.config)
        parts, missing = [window_rows_schema(self.spec).empty_table()], ids
        if files.fit():
            rows, missing = files.rows_before(ids, as_of_ms)
            parts.append(rows)
        if len(missing):
            parts.append(self._from_log(missing, day, as_of_ms))
        rows = pa.concat_tables(parts)
        read = with_content(_counted(rows), self._posts.of(column(rows, "post_id")), self.spec)
        return dict(encode_histories(read, self.spec))

    def _from_log(self, members: Ints, day: str, as_of_ms: int) -> pa.Table:
        """The members' impressions that arrived before a time, of the whole log."""
        rows = WholeLogs(layout=self.layout, day=day, spec=self.spec).logged(members)
        member = column(rows, "member_id")
        index = np.arange(len(member)) - np.searchsorted(member, member)
        known = pa.array(column(rows, "arrival_time") < as_of_ms)
        return logged_rows(rows, index, self.spec).filter(known)


def _counted(rows: pa.Table) -> pa.Table:
    """Impressions with the `count` of all that their member had up to the last of them."""
    member, index = column(rows, "member_id"), column(rows, INDEX)
    own, place = np.unique(member, return_inverse=True)
    last = np.zeros(len(own), np.int64)
    np.maximum.at(last, place, index)
    return rows.append_column("count", pa.array(last[place] + 1))


def _impressions(logged: LoggedRequest) -> pa.Table:
    """The candidates as impressions that were served at the request's time."""
    count = len(logged.post_ids)
    return pa.table(
        {
            "member_id": pa.array([logged.member_id] * count, pa.int64()),
            "post_id": pa.array(logged.post_ids, pa.int64()),
            "event_time": pa.array([logged.time_ms] * count, pa.int64()),
        }
    )


def rank_probabilities(
    ranker: Ranker, freshness: Freshness, request: RankRequest
) -> npt.NDArray[np.float64]:
    """The probabilities `[N, K]` of a request by `rank`, as serving computes them."""
    batch = build_rank_batch(ranker.spec, freshness, [request])
    with torch.inference_mode():
        return ranker.rank(batch).double().sigmoid().numpy()


def forward_probabilities(
    ranker: Ranker, freshness: Freshness, request: RankRequest, rows: Sequence[int]
) -> npt.NDArray[np.float64]:
    """The probabilities `[len(rows), K]` of some candidates by `forward`, as in training.

    Each candidate is one more impression after the member's history, in a sequence of its own.
    """
    batch = build_rank_batch(ranker.spec, freshness, [request])
    train = training_batch(ranker.spec, batch, list(rows))
    with torch.inference_mode():
        return ranker(train).logits_RK.double().sigmoid().numpy()


def training_batch(spec: Spec, batch: RankBatch, rows: list[int]) -> TrainBatch:
    """Candidates of a batch of one request as targets of training sequences of their own.

    Their actions are unknown.
    """
    count, each = batch.history.num_impressions, len(rows)
    labels = torch.full((each, len(spec.tasks)), torch.nan)
    return TrainBatch(
        impressions=_with_candidates(spec, batch, rows),
        target_R=torch.arange(each) * (count + 1) + count,
        context_RC=batch.context_NC[rows],
        labels_RK=labels,
        weight_R=torch.ones(each),
        position_R=torch.full((each,), SERVING_POSITION, dtype=torch.int64),
        auxiliary_A=torch.zeros(0, dtype=torch.int64),
        auxiliary_labels_AK=labels[:0],
    )


def _with_candidates(spec: Spec, batch: RankBatch, rows: list[int]) -> Impressions:
    """A sequence for each candidate: the history, and the candidate as one more impression."""
    history, count, each = batch.history, batch.history.num_impressions, len(rows)
    assert history.time_M is not None
    assert batch.time_N is not None
    return Impressions(
        features={
            name: _interleave(values, batch.candidates[name][rows])
            for name, values in history.features.items()
        },
        actions={
            action.name: _interleave(
                history.actions[action.name],
                _unknown(history.actions[action.name], action.kind, each),
            )
            for action in spec.with_role("action")
        },
        known_M=_interleave(history.known_M, torch.full((each,), count, dtype=torch.int32)),
        time_M=_interleave(history.time_M, batch.time_N[rows]),
        cu_seqlens=torch.arange(each + 1, dtype=torch.int32) * (count + 1),
    )


def _interleave(history_M: Tensor, candidates: Tensor) -> Tensor:
    """The history, then one candidate, for each candidate."""
    ends = candidates.to(history_M.dtype)
    return torch.cat([torch.cat([history_M, end[None]]) for end in ends])


def _unknown(like: Tensor, kind: Kind, count: int) -> Tensor:
    value = UNKNOWN if isinstance(kind, Binary) else torch.nan
    return torch.full((count,), value, dtype=like.dtype)
