# SPDX-License-Identifier: Apache-2.0
"""What a file of a day's state was made from, so that none is carried on from another log.

State is yesterday's outcome that today's step starts from, a file a bucket. Each says in its own
metadata through which days it was carried and what their impressions looked like then; it is
written by a rename, so a killed step leaves each bucket whole, at the day or at the one before. It
knows no counter and no window.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.layout.paths import Layout
from components.layout.stamps import Digests
from feature_repo.spec import Spec

METADATA = b"feedsr.state"


@dataclass(frozen=True)
class Origin:
    """What a bucket's state was made from.

    Attributes:
        key: what it depends on beside the log: the spec and the number of buckets.
        days: the days it was carried through, with a digest of each one's impressions.
    """

    key: str
    days: dict[str, str]

    @classmethod
    def of_log(cls, layout: Layout, day: str, key: str) -> Origin:
        """The origin that a state through `day` has, as the log is now."""
        return cls(key, {d: s for d, s in _digests(layout).items() if d <= day})

    @classmethod
    def of_file(cls, path: Path) -> Origin | None:
        """The origin of a file of state; None where there is none, or it is no such file."""
        try:
            return cls.of_schema(pq.read_schema(path)) if path.is_file() else None
        except (pa.ArrowException, OSError):
            return None

    @classmethod
    def of_schema(cls, schema: pa.Schema) -> Origin | None:
        """The origin of a file of state by its schema; None where that says none."""
        try:
            kept = json.loads((schema.metadata or {}).get(METADATA, b"null"))
            return cls(str(kept["key"]), {str(d): str(s) for d, s in kept["days"].items()})
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    @staticmethod
    def key_of(spec: Spec, buckets: int) -> str:
        """The key of a spec's state in so many buckets."""
        return f"{spec.hash} {buckets}"

    @property
    def day(self) -> str:
        """The last day; "" before the first."""
        return max(self.days, default="")

    def leads_to(self, later: Origin) -> bool:
        """Whether a state of this origin, carried on, is one of the later origin."""
        upto = {d: s for d, s in later.days.items() if d <= self.day}
        return self.key == later.key and self.days == upto

    def metadata(self) -> dict[bytes, bytes]:
        """What a file's schema says of it."""
        return {METADATA: json.dumps({"key": self.key, "days": self.days}).encode()}


def _digests(layout: Layout) -> dict[str, str]:
    """A digest of each day's impressions."""
    days = {day: layout.impressions_day(day) for day in layout.impression_days()}
    return Digests(layout.root / "ledger" / "impressions.json").of(days)
