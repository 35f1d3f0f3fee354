# SPDX-License-Identifier: Apache-2.0
"""Decoded requests to the model's batch: a function that serving and the parity step share.

It decides what of a history was known at the request's time; it does no I/O and holds no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from feature_repo.spec import Freshness, Spec
from model.batch import Impressions, RankBatch
from serving.history import History, history_as_of
from serving.wire import RankRequest, to_numpy

SERVING_POSITION = 5
"""The feed position serving assumes for every candidate (paper, section on position bias)."""


def build_rank_batch(
    spec: Spec,
    freshness: Freshness,
    requests: Sequence[RankRequest],
    remembered: Sequence[int] | None = None,
) -> RankBatch:
    """The packed batch of `requests`, on the CPU.

    One request's columns become tensors without a copy. Each history is cut to what had arrived
    before `spec.cutoff(time_ms, freshness)`, and its first `remembered` impressions, whose keys and
    values `Ranker.rank_after` is given, are left out.

    Raises:
        ValueError: there is no request; a batch of none has no tensors to join.
    """
    if not requests:
        raise ValueError("there is no request to rank; send at least one")
    histories = [known_history(spec, freshness, r) for r in requests]
    firsts = [0] * len(histories) if remembered is None else remembered
    pairs = list(zip(histories, firsts, strict=True))
    batches = [h.batch.slice(first) for h, first in pairs]
    history = Impressions(
        features={f.name: _column(batches, f.name) for f in spec.with_role("sequence")},
        actions={f.name: _column(batches, f.name) for f in spec.with_role("action")},
        known_M=_join([h.known(spec, freshness)[first:] for h, first in pairs]),
        cu_seqlens=_offsets([b.num_rows for b in batches]),
        time_M=_column(batches, "event_time"),
    )
    counts = [r.num_candidates for r in requests]
    context_NC = _join([r.context_NC for r in requests])
    return RankBatch(
        history=history,
        candidates={
            f.name: _join([r.features[f.name] for r in requests])
            for f in spec.with_role("sequence")
        },
        context_NC=context_NC,
        cu_candidates=_offsets(counts),
        position_N=torch.full((len(context_NC),), SERVING_POSITION, dtype=torch.int64),
        time_N=_join(
            [np.full(n, r.time_ms, np.int64) for n, r in zip(counts, requests, strict=True)]
        ),
    )


def known_history(spec: Spec, freshness: Freshness, request: RankRequest) -> History:
    """The prefix of the request's history that serving may know at its time."""
    cutoff = int(spec.cutoff(np.array(request.time_ms), freshness))
    whole = request.history
    batch = history_as_of(whole.batch, whole.count, cutoff)
    return History(batch, whole.start + batch.num_rows, whole.start, whole.member_id)


def _column(batches: Sequence[pa.RecordBatch], name: str) -> Tensor:
    return _join([to_numpy(b.column(name)) for b in batches])


def _join(parts: Sequence[npt.NDArray[Any]]) -> Tensor:
    """One tensor over the parts' memory, which may be read-only; only joining several copies."""
    tensors = [torch.from_dlpack(p) for p in parts]
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _offsets(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
