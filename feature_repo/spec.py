# SPDX-License-Identifier: Apache-2.0
"""The feature spec: the single source of every feature.

Feast fields, the schemas of a log, the shard columns, the model's encoders and the serving decoder
are derived from a `Spec`; adding a feature is one line in `feature_repo/specs.py`. This module
knows nothing of Feast, torch or files: it needs numpy and pyarrow only, so that a predictor image
can import it.

Time is milliseconds since the Unix epoch in int64 everywhere. A *day* is a local calendar day of
the feed, `(time_ms + utc_offset) // 86_400_000`, written YYYY-MM-DD where it names a file.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.kinds import (
    Binary,
    Embedding,
    Feature,
    HashedId,
    Role,
    Task,
    View,
    arrow_field,
)

DAY_MS = 86_400_000
Freshness = Literal["day", "30m", "immediate"]
FRESHNESS: tuple[Freshness, ...] = ("day", "30m", "immediate")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Everything that names features: the spec a model is trained with and remembers by its hash.

    Attributes:
        max_impressions: T; a window holds at most T + block - 1 impressions.
        block: B; windows slide in blocks of B impressions.
        session_gap_ms: a longer pause starts a new session where no request id is logged.
    """

    name: str
    features: tuple[Feature, ...]
    views: tuple[View, ...]
    tasks: tuple[Task, ...]
    utc_offset_hours: int = 0
    max_impressions: int = 1000
    block: int = 64
    session_gap_ms: int = 30 * 60_000

    def __post_init__(self) -> None:
        names = [f.name for f in self.features]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"spec {self.name}: feature {twice[0]!r} is declared twice")
        known = {"request", "post", "age", "action"} | {v.name for v in self.views}
        for f in self.features:
            if f.source not in known:
                raise ValueError(
                    f"spec {self.name}: {f.name} has source {f.source!r}, "
                    f"want one of {sorted(known)}"
                )
        tables: dict[str, tuple[int, int]] = {}
        for f in self.features:
            if isinstance(f.kind, HashedId):
                shape = (f.kind.buckets, f.kind.dim)
                if tables.setdefault(f.kind.table, shape) != shape:
                    raise ValueError(
                        f"spec {self.name}: table {f.kind.table!r} is declared with two sizes"
                    )

    def with_role(self, role: Role) -> tuple[Feature, ...]:
        """The features of one role, in the order they are declared."""
        return tuple(f for f in self.features if f.role == role)

    @cached_property
    def fused_early(self) -> tuple[Feature, ...]:
        """The sequence features that are known only when an impression is served.

        They are a view's, or the post's age. The shipped specs have none: the ablation moves them.
        """
        known_before = ("request", "post")
        return tuple(f for f in self.with_role("sequence") if f.source not in known_before)

    def view(self, name: str) -> View:
        """The view of that name; KeyError if there is none."""
        return {v.name: v for v in self.views}[name]

    @property
    def content(self) -> View:
        """The one view of kind "content"."""
        return next(v for v in self.views if v.kind == "content")

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks' names in logit order."""
        return tuple(t.name for t in self.tasks)

    @cached_property
    def context_slices(self) -> dict[str, slice]:
        """Each context feature's columns in the context matrix `[R, C]` (float32)."""
        slices, start = {}, 0
        for f in self.with_role("context"):
            width = f.kind.dim if isinstance(f.kind, Embedding) else 1
            slices[f.name] = slice(start, start + width)
            start += width
        return slices

    @property
    def context_width(self) -> int:
        """C, the width of the context matrix."""
        return sum(s.stop - s.start for s in self.context_slices.values())

    @cached_property
    def hash(self) -> str:
        """16 hex digits over the declaration; a model serves only the spec it was trained with."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """A canonical JSON text of the declaration, readable next to a checkpoint."""

        def plain(value: Any) -> Any:
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                own = {f.name: getattr(value, f.name) for f in fields(value) if f.hash is None}
                return {"type": type(value).__name__, **{n: plain(v) for n, v in own.items()}}
            return [plain(v) for v in value] if isinstance(value, tuple) else value

        return json.dumps(plain(self), sort_keys=True)

    def day(self, time_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The local day number of each time."""
        return (np.asarray(time_ms, np.int64) + self.utc_offset_hours * 3_600_000) // DAY_MS

    def day_start(self, day: npt.NDArray[np.int64] | int) -> Any:
        """The first millisecond of a local day number."""
        return day * DAY_MS - self.utc_offset_hours * 3_600_000

    def day_end(self, date: str) -> int:
        """The first millisecond after the local day YYYY-MM-DD: what the day's rows are as of."""
        return int(self.day_start(self.day_number(date) + 1))

    @staticmethod
    def day_number(date: str) -> int:
        """The local day number of YYYY-MM-DD; ValueError for anything else."""
        with suppress(ValueError):
            day = datetime.date.fromisoformat(date)
            if day.isoformat() == date:
                return (day - datetime.date(1970, 1, 1)).days
        raise ValueError(f"{date!r} is not a day; write it as YYYY-MM-DD")

    @staticmethod
    def days_after(date: str, days: int) -> str:
        """The day so many days after another; before it, where the number is negative."""
        return Spec.day_name(Spec.day_number(date) + days)

    @staticmethod
    def day_name(day: int) -> str:
        """YYYY-MM-DD of a local day number."""
        return (datetime.date(1970, 1, 1) + datetime.timedelta(days=int(day))).isoformat()

    def cutoff(self, time_ms: npt.NDArray[np.int64], freshness: Freshness) -> npt.NDArray[np.int64]:
        """What serving would know at `time_ms`: everything that arrived strictly before the cutoff.

        "day": the start of the local day (the daily loop alone); "30m": 30 minutes earlier;
        "immediate": now.
        """
        time_ms = np.asarray(time_ms, np.int64)
        if freshness == "day":
            return np.asarray(self.day_start(self.day(time_ms)), np.int64)
        if freshness == "30m":
            return time_ms - 30 * 60_000
        if freshness == "immediate":
            return time_ms
        raise ValueError(f"freshness is {freshness!r}, want one of {', '.join(FRESHNESS)}")

    @cached_property
    def impression_schema(self) -> pa.Schema:
        """Impressions as a source writes them; ingest adds `session_id` (int64)."""
        fields = [
            pa.field("member_id", pa.int64(), nullable=False),
            pa.field("post_id", pa.int64(), nullable=False),
            pa.field("event_time", pa.int64(), nullable=False),
            pa.field("arrival_time", pa.int64(), nullable=False),
            pa.field("timed", pa.bool_(), nullable=False),
            pa.field("request_id", pa.int64()),
            pa.field("position", pa.int16(), nullable=False),
            pa.field("dwell_ms", pa.int32()),
        ]
        fields += [arrow_field(f) for f in self.features if f.source == "request"]
        fields += [arrow_field(f) for f in self.with_role("action") if isinstance(f.kind, Binary)]
        return pa.schema(fields)

    @cached_property
    def post_schema(self) -> pa.Schema:
        """Posts as a source writes them: ids, when created, every feature of source "post"."""
        fields = [
            pa.field(n, pa.int64(), nullable=False)
            for n in ("post_id", "actor_id", "root_actor_id", "created_ms")
        ]
        fields += [
            arrow_field(f) for f in self.content.features if f.name not in {x.name for x in fields}
        ]
        return pa.schema(fields)

    @cached_property
    def member_schema(self) -> pa.Schema:
        """Members as a source writes them: the id and every feature of the profile views."""
        fields = [pa.field("member_id", pa.int64(), nullable=False)]
        fields += [arrow_field(f) for v in self.views if v.kind == "profile" for f in v.features]
        return pa.schema(fields)

    @cached_property
    def history_schema(self) -> pa.Schema:
        """The columns of a history value, a row per impression; a shard's list columns too."""
        fields = [
            pa.field("event_time", pa.int64()),
            pa.field("arrival_time", pa.int64()),
            pa.field("session_id", pa.int64()),
            pa.field("timed", pa.bool_()),
            pa.field("position", pa.int16()),
        ]
        fields += [arrow_field(f) for f in self.with_role("sequence")]
        fields += [arrow_field(f) for f in self.with_role("action")]
        return pa.schema(fields)


def window_start(count: npt.NDArray[np.int64] | int, max_impressions: int, block: int) -> Any:
    """The first impression of the window after `count` impressions: `B * floor(max(n - T, 0) / B)`.

    A function of the count alone, so offline, online, training and a cache agree, and a cached key
    stays valid until the block slides.
    """
    return block * (np.maximum(np.asarray(count) - max_impressions, 0) // block)
