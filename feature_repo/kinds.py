# SPDX-License-Identifier: Apache-2.0
"""The types that a feature spec is written in: kinds, features, views, tasks, and their columns.

Each says what it is and how it lies in Arrow and in a packed record. This module knows no feed, no
time and no file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

UNKNOWN = -1
"""The code of an unknown action, categorical value or feed position in every int column."""

Role = Literal["sequence", "context", "action"]
Group = Literal["passive", "active"]


@dataclass(frozen=True, kw_only=True)
class HashedId:
    """An int64 id hashed into `buckets` rows of an embedding table that features may share."""

    table: str
    buckets: int
    dim: int


@dataclass(frozen=True, kw_only=True)
class Categorical:
    """An int32 code in [0, cardinality); anything else is unknown, with its own embedding."""

    cardinality: int
    dim: int = 8


@dataclass(frozen=True, kw_only=True)
class Numeric:
    """A float32 value, NaN missing; encoded standardised and by its quantile bin."""

    transform: Literal["identity", "log1p"] = "identity"
    bins: int = 16
    dim: int = 4


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """A dense vector of `dim` float16 values (content or profile); all zero is missing."""

    dim: int


@dataclass(frozen=True, kw_only=True)
class Binary:
    """An action: int8, 1 happened, 0 did not, `UNKNOWN` was not observed."""


Kind = HashedId | Categorical | Numeric | Embedding | Binary


@dataclass(frozen=True, kw_only=True)
class Counter:
    """How a context feature is counted over the impressions that share its view's keys.

    Attributes:
        of: "impression", an action's name, or "dwell" with `dwell_ms`.
        rate: the smoothed share `(hits + strength * prior) / (impressions + strength)` instead of
            the count, over the impressions where the action is known; `prior` is the task's, 0.1
            for dwell.
        days: only impressions of the last `days` days before the cutoff (untimed ones never count
            then).
        last: only the last `last` impressions of the key; NaN when there is none.
        dwell_ms: the half-open range of `dwell_ms` that counts as a hit.
    """

    of: str
    rate: bool = False
    days: int | None = None
    last: int | None = None
    dwell_ms: tuple[int, int] | None = None
    strength: float = 10.0


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One feature, said once.

    Attributes:
        source: where serving finds the value. "request" (known when the feed is asked for; logged
            on the impression), "post" (post content), "age" (hours since the post was created),
            "action" (what the member did), or the name of a view of counters or of member columns.
        counter: how it is counted, for features of a counter view.
    """

    name: str
    role: Role
    kind: Kind
    source: str
    counter: Counter | None = None


@dataclass(frozen=True, kw_only=True)
class View:
    """A packed feature view: one Feast value per entity row, the bytes of a `dtype` record.

    `keys` are impression columns (for example ("member_id", "actor_id")); `kind` says who fills it:
    "content" (the posts table), "profile" (the members table) or "counters" (counted impressions).
    """

    name: str
    keys: tuple[str, ...]
    kind: Literal["content", "profile", "counters"]
    features: tuple[Feature, ...]

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The packed record, little-endian; content starts with actor, root actor, created."""
        head: list[tuple[Any, ...]] = []
        if self.kind == "content":
            head = [("actor_id", "<i8"), ("root_actor_id", "<i8"), ("created_ms", "<i8")]
        names = {name for name, *_ in head}
        return np.dtype(head + [numpy_field(f) for f in self.features if f.name not in names])

    @cached_property
    def default(self) -> npt.NDArray[Any]:
        """One record of declared defaults: ids 0, codes unknown, numerics NaN, embeddings zero."""
        record = np.zeros(1, self.dtype)
        for feature in self.features:
            record[feature.name] = default_value(feature.kind)
        if "created_ms" in (self.dtype.names or ()):
            record["created_ms"] = UNKNOWN
        return record

    def unpack(self, values: list[bytes | None]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Records `[R]` of `dtype` and whether each was missing; ValueError for another size."""
        size, default = self.dtype.itemsize, self.default.tobytes()
        missing = np.array([not v for v in values], dtype=np.bool_)
        for value in values:
            if value and len(value) != size:
                raise ValueError(
                    f"view {self.name}: a stored value has {len(value)} bytes, the spec expects "
                    f"{size}; rebuild the features with this spec"
                )
        return np.frombuffer(b"".join(v or default for v in values), self.dtype), missing


@dataclass(frozen=True, kw_only=True)
class Task:
    """A prediction target: an action, its group, its prior and its weight in the final score.

    Attributes:
        examined: whether only a post that was looked at gets it; training alone asks, so it is not
            in the hash.
    """

    name: str
    group: Group
    prior: float
    utility: float
    examined: bool = field(default=True, hash=False)


def default_value(kind: Kind) -> Any:
    """The declared default of a missing value of this kind."""
    if isinstance(kind, HashedId | Embedding):
        return 0
    return np.nan if isinstance(kind, Numeric) else UNKNOWN


def arrow_type(kind: Kind) -> pa.DataType:
    """The column type of a kind in impressions, posts, members, histories and shards."""
    if isinstance(kind, HashedId):
        return pa.int64()
    if isinstance(kind, Categorical):
        return pa.int32()
    if isinstance(kind, Numeric):
        return pa.float32()
    if isinstance(kind, Embedding):
        return pa.list_(pa.float16(), kind.dim)
    return pa.int8()


def arrow_field(feature: Feature) -> pa.Field:
    """The feature as an Arrow field; never null, the declared default stands for missing."""
    return pa.field(feature.name, arrow_type(feature.kind), nullable=False)


def numpy_field(feature: Feature) -> tuple[Any, ...]:
    """The feature as a field of a packed little-endian record."""
    kind = feature.kind
    if isinstance(kind, Embedding):
        return (feature.name, "<f2", (kind.dim,))
    code = {HashedId: "<i8", Categorical: "<i4", Numeric: "<f4", Binary: "i1"}[type(kind)]
    return (feature.name, code)
