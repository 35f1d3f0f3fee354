# SPDX-License-Identifier: Apache-2.0
"""What a file of a day's state was made from, so that none is carried on from another log.

State is yesterday's outcome that today's step starts from, a file a bucket. Each says in its own
metadata through which days it was carried and what their impressions looked like then; it is
written by a rename, so a killed step leaves each bucket whole, at the day or at the one before. It
knows no counter and no window.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.layout.files import write_json
from components.layout.paths import Layout
from feature_repo.spec import Spec

METADATA = b"feedsr.state"

Seen = dict[str, tuple[int, int, str]]
"""By day: when its impressions were written, in nanoseconds, their size, and a digest of them."""


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
        if not path.is_file():
            return None
        try:
            kept = json.loads((pq.read_schema(path).metadata or {}).get(METADATA, b"null"))
            return cls(str(kept["key"]), {str(d): str(s) for d, s in kept["days"].items()})
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError):
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
    """A digest of each day's impressions; a file is read again only where it was written since."""
    path = layout.root / "ledger" / "impressions.json"
    seen = _seen(path)
    now = {
        day: _look(layout.impressions_day(day), seen.get(day)) for day in layout.impression_days()
    }
    if now != seen:
        write_json(path, now)
    return {day: digest for day, (*_, digest) in now.items()}


def _seen(path: Path) -> Seen:
    try:
        return {
            day: (int(t), int(s), str(d)) for day, (t, s, d) in json.loads(path.read_text()).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _look(path: Path, seen: tuple[int, int, str] | None) -> tuple[int, int, str]:
    state = path.stat()
    if seen and seen[:2] == (state.st_mtime_ns, state.st_size):
        return seen
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return state.st_mtime_ns, state.st_size, content
