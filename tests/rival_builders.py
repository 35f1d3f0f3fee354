# SPDX-License-Identifier: Apache-2.0
"""Small rivals and the requests that serving would have seen in the place of training targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from feature_repo.spec import Spec
from model import HeadConfig, RankerConfig, build_ranker
from model.batch import Impressions, RankBatch, TrainBatch
from model.ranker import Ranker
from model.rivals import AppendedConfig, LiGRConfig, LiRankConfig, TransActConfig
from tests.builders import TINY, offsets_of, select_impressions

HEAD = HeadConfig(width=8, hidden=1, cross=1, rank=4)
LIRANK = LiRankConfig(width=8, hidden=2, cross=2, rank=6, fields=3, calibration_buckets=5)
TRANSACT = TransActConfig(
    history=5, width=8, layers=2, heads=2, outputs=2, chunk=3, dropout=0.0, head=HEAD
)
APPENDED = AppendedConfig(width=8, layers=3, heads=2, mlp_ratio=2.0, head=HEAD)
LIGR = LiGRConfig(width=8, layers=2, heads=2, mlp_ratio=2.0, set_layers=2, head=HEAD)
RIVALS: tuple[RankerConfig, ...] = (LIRANK, TRANSACT, APPENDED, LIGR)


def noisy(config: RankerConfig, spec: Spec = TINY, seed: int = 1) -> Ranker:
    """A float64 ranker whose every parameter matters: outputs start too small to differ."""
    ranker = build_ranker(config, spec, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return ranker.double().eval()


def request_of(batch: TrainBatch, targets: Sequence[int]) -> RankBatch:
    """The one request whose candidates are these targets: one sequence, the same known history."""
    imp, rows = batch.impressions, batch.target_R[list(targets)]
    sequence = int(torch.searchsorted(imp.cu_seqlens[1:], int(rows[0]), right=True))
    known = imp.known_M[rows]
    assert bool((known == known[0]).all())
    return RankBatch(
        history=select_impressions(imp, sequence, int(known[0])),
        candidates={n: c[rows] for n, c in imp.features.items()},
        context_NC=batch.context_RC[list(targets)],
        cu_candidates=offsets_of([len(rows)]),
        position_N=batch.position_R[list(targets)],
    )


def requests_of(batch: TrainBatch) -> list[list[int]]:
    """The targets of a batch by the request that they were in: served to one member at one time."""
    imp = batch.impressions
    assert imp.time_M is not None
    found: dict[tuple[int, int], list[int]] = {}
    for target, row in enumerate(batch.target_R.tolist()):
        sequence = int(torch.searchsorted(imp.cu_seqlens[1:], row, right=True))
        found.setdefault((sequence, int(imp.time_M[row])), []).append(target)
    return list(found.values())


def join(requests: Sequence[RankBatch]) -> RankBatch:
    """Several one-request batches as one."""
    histories = [r.history for r in requests]
    return RankBatch(
        history=Impressions(
            features=_columns([h.features for h in histories]),
            actions=_columns([h.actions for h in histories]),
            known_M=torch.cat([h.known_M for h in histories]),
            cu_seqlens=offsets_of([h.num_impressions for h in histories]),
        ),
        candidates=_columns([r.candidates for r in requests]),
        context_NC=torch.cat([r.context_NC for r in requests]),
        cu_candidates=offsets_of([len(r.position_N) for r in requests]),
        position_N=torch.cat([r.position_N for r in requests]),
    )


def _columns(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {n: torch.cat([p[n] for p in parts]) for n in parts[0]}
