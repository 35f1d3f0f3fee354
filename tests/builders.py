# SPDX-License-Identifier: Apache-2.0
"""Random batches of any spec, the same for the same seed: what several tests feed to the real
functions.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from feature_repo.kinds import (
    Binary,
    Categorical,
    Embedding,
    Feature,
    HashedId,
    Kind,
    Numeric,
    Task,
    View,
)
from feature_repo.spec import Spec
from model.batch import Impressions, RankBatch, TrainBatch

Pattern = Literal["causal", "day"]


def make_columns(features: Sequence[Feature], rows: int, generator: torch.Generator) -> dict:
    """Random columns of these features; about one value in eight is unknown or missing."""
    return {f.name: make_column(f, rows, generator) for f in features}


def make_column(feature: Feature, rows: int, generator: torch.Generator) -> Tensor:
    """One random column in the dtype that `model.batch` says."""
    kind = feature.kind
    absent = torch.rand(rows, generator=generator) < 0.125
    if isinstance(kind, HashedId):
        ids = torch.randint(1, 2**62, (rows,), generator=generator)
        return torch.where(absent, 0, ids)
    if isinstance(kind, Categorical):
        codes = torch.randint(0, kind.cardinality, (rows,), generator=generator, dtype=torch.int32)
        return torch.where(absent, -1, codes)
    if isinstance(kind, Binary):
        states = torch.randint(0, 2, (rows,), generator=generator, dtype=torch.int8)
        return torch.where(absent, -1, states)
    if isinstance(kind, Embedding):
        vector = torch.randn(rows, kind.dim, generator=generator).half()
        return torch.where(absent[:, None], 0, vector)
    values = 10 * torch.randn(rows, generator=generator).abs()
    return torch.where(absent, torch.nan, values)


def make_context(spec: Spec, rows: int, generator: torch.Generator) -> Tensor:
    """A random context matrix `[rows, C]` float32, NaN where missing."""
    columns = make_columns(spec.with_role("context"), rows, generator)
    parts = [c.float() if c.ndim == 2 else c.float()[:, None] for c in columns.values()]
    return torch.cat([torch.empty(rows, 0), *parts], -1)


def make_known(length: int, pattern: Pattern, generator: torch.Generator) -> Tensor:
    """int32 known prefix lengths: all before ("causal"), or the days before ("day", 1 to 5 a
    day).
    """
    index = torch.arange(length, dtype=torch.int32)
    if pattern == "causal":
        return index
    starts = torch.rand(length, generator=generator) < 0.35
    if length:
        starts[0] = True
    return torch.where(starts, index, 0).cummax(0).values.to(torch.int32) if length else index


def offsets_of(lengths: Sequence[int]) -> Tensor:
    """int32 offsets `[S + 1]` of packed sequences."""
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def make_impressions(
    spec: Spec,
    lengths: Sequence[int],
    generator: torch.Generator,
    pattern: Pattern = "causal",
) -> Impressions:
    """Random packed histories."""
    rows = sum(lengths)
    known = [make_known(n, pattern, generator) for n in lengths]
    return Impressions(
        features=make_columns(spec.with_role("sequence"), rows, generator),
        actions=make_columns(spec.with_role("action"), rows, generator),
        known_M=torch.cat([torch.zeros(0, dtype=torch.int32), *known]),
        cu_seqlens=offsets_of(lengths),
    )


def make_train_batch(
    spec: Spec,
    seed: int,
    lengths: Sequence[int],
    pattern: Pattern = "causal",
    target_share: float = 0.75,
) -> TrainBatch:
    """Random sequences; an impression is a target with the given chance, or else auxiliary. Of
    those that knew the same, two at a time were served together.
    """
    generator = torch.Generator().manual_seed(seed)
    impressions = make_impressions(spec, lengths, generator, pattern)
    impressions = dataclasses.replace(impressions, time_M=served_in_pairs(impressions))
    is_target = torch.rand(sum(lengths), generator=generator) < target_share
    target, auxiliary = is_target.nonzero()[:, 0], (~is_target).nonzero()[:, 0]
    labels = torch.stack([impressions.actions[t].float() for t in spec.task_names], -1)
    labels = torch.where(labels < 0, torch.nan, labels)
    rows = len(target)
    return TrainBatch(
        impressions=impressions,
        target_R=target,
        context_RC=make_context(spec, rows, generator),
        labels_RK=labels[target],
        weight_R=torch.rand(rows, generator=generator) + 0.5,
        position_R=torch.randint(-1, 70, (rows,), generator=generator),
        auxiliary_A=auxiliary,
        auxiliary_labels_AK=labels[auxiliary],
    )


def served_in_pairs(impressions: Impressions) -> Tensor:
    """int64 `[M]`: times in the order of what was known, of two impressions each."""
    before: Counter[tuple[int, int]] = Counter()
    times = []
    for sequence, length in enumerate(impressions.cu_seqlens.diff().tolist()):
        for _ in range(length):
            knew = sequence, int(impressions.known_M[len(times)])
            times.append(1000 * knew[1] + before[knew] // 2)
            before[knew] += 1
    return torch.tensor(times, dtype=torch.int64)


def make_rank_batch(
    spec: Spec,
    seed: int,
    lengths: Sequence[int],
    counts: Sequence[int],
    pattern: Pattern = "causal",
) -> RankBatch:
    """Random requests: history lengths and numbers of candidates, one of each a request."""
    generator = torch.Generator().manual_seed(seed)
    history = make_impressions(spec, lengths, generator, pattern)
    rows = sum(counts)
    return RankBatch(
        history=history,
        candidates=make_columns(spec.with_role("sequence"), rows, generator),
        context_NC=make_context(spec, rows, generator),
        cu_candidates=offsets_of(counts),
        position_N=torch.full((rows,), 5),
    )


def select_impressions(impressions: Impressions, sequence: int, length: int) -> Impressions:
    """The first `length` impressions of one sequence, alone."""
    start = int(impressions.cu_seqlens[sequence])
    rows = slice(start, start + length)
    return Impressions(
        features={n: c[rows] for n, c in impressions.features.items()},
        actions={n: c[rows] for n, c in impressions.actions.items()},
        known_M=impressions.known_M[rows],
        cu_seqlens=offsets_of([length]),
    )


def select_request(batch: RankBatch, request: int, candidates: Sequence[int]) -> RankBatch:
    """One request of a batch alone, with the chosen of its candidates, in that order."""
    start = int(batch.cu_candidates[request])
    rows = start + torch.tensor(candidates, dtype=torch.int64)
    length = int(batch.history.cu_seqlens[request + 1] - batch.history.cu_seqlens[request])
    return RankBatch(
        history=select_impressions(batch.history, request, length),
        candidates={n: c[rows] for n, c in batch.candidates.items()},
        context_NC=batch.context_NC[rows],
        cu_candidates=offsets_of([len(candidates)]),
        position_N=batch.position_N[rows],
    )


def make_tiny_spec() -> Spec:
    """A spec with one feature of every kind and two that share a table: for laws that need many
    runs.
    """
    vector, ids = Embedding(dim=3), HashedId(table="actor", buckets=64, dim=4)
    profile = tuple(
        Feature(name=name, role="context", kind=kind, source="profile")
        for name, kind in (
            ("activity", Numeric(transform="log1p")),
            ("rate", Numeric()),
            ("industry", Categorical(cardinality=3, dim=2)),
            ("taste", vector),
        )
    )
    posts = tuple(
        Feature(name=name, role="sequence", kind=kind, source="post")
        for name, kind in (
            ("post_id", HashedId(table="post", buckets=128, dim=4)),
            ("actor_id", ids),
            ("root_actor_id", ids),
            ("media", Categorical(cardinality=4, dim=2)),
            ("length_s", Numeric(transform="log1p", bins=4, dim=2)),
            ("content", vector),
        )
    )
    tasks: tuple[Task, ...] = (
        Task(name="click", group="passive", prior=0.3, utility=1.0),
        Task(name="like", group="active", prior=0.05, utility=2.0),
        Task(name="skip", group="passive", prior=0.5, utility=-1.0),
    )
    kinds: dict[str, Kind] = {t.name: Binary() for t in tasks}
    kinds["dwell_ms"] = Numeric(transform="log1p")
    actions = tuple(
        Feature(name=name, role="action", kind=kind, source="action")
        for name, kind in kinds.items()
    )
    return Spec(
        name="tiny",
        features=(*posts, *actions, *profile),
        views=(
            View(name="content", keys=("post_id",), kind="content", features=posts[1:]),
            View(name="profile", keys=("member_id",), kind="profile", features=profile),
        ),
        tasks=tasks,
    )


TINY = make_tiny_spec()
