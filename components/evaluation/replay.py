# SPDX-License-Identifier: Apache-2.0
"""A served request made again from the offline side: the log, Feast's point-in-time join, the model
as in training.

It shares with serving the pure functions alone (`serving.assemble`, the codec, the batch); every
value comes from the offline files. What differs is for `components.evaluation.parity` to say.

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
from components.features.context import PointInTimeContext
from components.features.histories import encode_histories
from components.features.store import open_store
from components.layout.paths import Layout
from components.log.columns import column, records, select_list
from components.log.impressions import ImpressionLog, read_posts, with_content
from feature_repo.kinds import UNKNOWN, Binary
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
        self.layout, self.spec = layout, config.spec
        self._context = PointInTimeContext(open_store(layout, config), config.spec)
        self._posts = read_posts(layout)

    def replay(self, logged: Sequence[dict[str, Any]], as_of_ms: int) -> list[Replayed]:
        """Served requests again, all of them answered when the store was as of `as_of_ms`.

        Args:
            logged: rows of the request log (`serving.transformer.request_log.SCHEMA`).
            as_of_ms: what had arrived before it, and posts made before it, were known.
        """
        if not logged:
            return []
        values = self._histories(sorted({row["member_id"] for row in logged}), as_of_ms)
        known = self._posts.filter(pa.array(column(self._posts, "created_ms") < as_of_ms))
        tables = [with_content(_events(row), known, self.spec) for row in logged]
        contexts = self._context.matrix(pa.concat_tables(tables))
        ends = np.cumsum([t.num_rows for t in tables])[:-1]
        return [
            Replayed(
                history=values.get(row["member_id"], b""),
                features=self._features(row, table),
                context_NC=context_NC,
            )
            for row, table, context_NC in zip(logged, tables, np.split(contexts, ends), strict=True)
        ]

    def _features(self, row: dict[str, Any], table: pa.Table) -> dict[str, npt.NDArray[Any]]:
        content = records(table, self.spec.content)
        ids, request = column(table, "post_id"), dict(row["request"])
        return sequence_features(self.spec, ids, content, request, row["time_ms"])

    def _histories(self, members: Sequence[int], as_of_ms: int) -> dict[int, bytes]:
        """History values by member, built from the log before `as_of_ms`."""
        names = select_list([*self.spec.event_schema.names, "session_id"])
        chunk = pa.table({"member_id": pa.array(members, pa.int64())})
        with ImpressionLog(self.layout, self.layout.impression_days()[-1]) as log:
            events = log.query(
                f"select {names}, count(*) over (partition by member_id) as count "
                f"from impressions semi join chunk using (member_id) "
                f"where arrival_time < {int(as_of_ms)}",
                chunk=chunk,
            )
        return dict(encode_histories(with_content(events, self._posts, self.spec), self.spec))


def _events(row: dict[str, Any]) -> pa.Table:
    """The candidates as impressions that were served at the request's time."""
    count = len(row["post_ids"])
    return pa.table(
        {
            "member_id": pa.array([row["member_id"]] * count, pa.int64()),
            "post_id": pa.array(row["post_ids"], pa.int64()),
            "event_time": pa.array([row["time_ms"]] * count, pa.int64()),
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
    """The probabilities `[len(rows), K]` of some candidates by `forward`, as training computes
    them.

    Each candidate is one more impression after the member's history, in a sequence of its own.
    """
    batch = build_rank_batch(ranker.spec, freshness, [request])
    train = training_batch(ranker.spec, batch, list(rows))
    with torch.inference_mode():
        return ranker(train).logits_RK.double().sigmoid().numpy()


def training_batch(spec: Spec, batch: RankBatch, rows: list[int]) -> TrainBatch:
    """Candidates of a batch of one request as targets of training sequences; their actions are
    unknown.
    """
    history, count = batch.history, batch.history.num_impressions
    assert history.time_M is not None
    assert batch.time_N is not None
    each = len(rows)
    sequences = {
        name: _interleave(values, batch.candidates[name][rows])
        for name, values in history.features.items()
    }
    actions = {
        f.name: _interleave(
            history.actions[f.name], _unknown(history.actions[f.name], f.kind, each)
        )
        for f in spec.with_role("action")
    }
    known = _interleave(history.known_M, torch.full((each,), count, dtype=torch.int32))
    labels = torch.full((each, len(spec.tasks)), torch.nan)
    return TrainBatch(
        impressions=Impressions(
            features=sequences,
            actions=actions,
            known_M=known,
            time_M=_interleave(history.time_M, batch.time_N[rows]),
            cu_seqlens=torch.arange(each + 1, dtype=torch.int32) * (count + 1),
        ),
        target_R=torch.arange(each) * (count + 1) + count,
        context_RC=batch.context_NC[rows],
        labels_RK=labels,
        weight_R=torch.ones(each),
        position_R=torch.full((each,), SERVING_POSITION, dtype=torch.int64),
        auxiliary_A=torch.zeros(0, dtype=torch.int64),
        auxiliary_labels_AK=labels[:0],
    )


def _interleave(history_M: Tensor, candidates: Tensor) -> Tensor:
    """The history, then one candidate, for each candidate."""
    return torch.cat([torch.cat([history_M, one[None].to(history_M.dtype)]) for one in candidates])


def _unknown(like: Tensor, kind: Any, count: int) -> Tensor:
    value = UNKNOWN if isinstance(kind, Binary) else torch.nan
    return torch.full((count,), value, dtype=like.dtype)
