# SPDX-License-Identifier: Apache-2.0
"""What steps that were killed left in a root: temporary files and folders beside what they wrote.

It knows them by the names that this package gives, each in its own place: what a person put into a
root, hidden or not, is none of them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

DAY = r"\d{4}-\d\d-\d\d"
RANDOM = r"[a-z0-9_]{8}"
"""What `tempfile` ends a name with."""
DAY_FILE = rf"day={DAY}\.(parquet|json)"
BUCKET = r"bucket=\d{5}\.parquet"
TABLES = r"(posts|members)\.parquet"
ROWS = r"(impressions|part)\.parquet"
RECORDS = r"(plan|metrics|gate|parity)\.json"
LEDGERS = r"(ingest|features|histories|impressions|online)\.json"
WHOLE = r"(feed_sr|dcnv2)"

PLACES = {
    ".": rf"\.({TABLES}|config\.json|serving\.json)\.{RANDOM}|\.engine-{RANDOM}",
    "raw": rf"\.{TABLES}\.{RANDOM}|\.import-{RANDOM}",
    "raw/day=*": rf"\.{ROWS}\.{RANDOM}",
    "impressions/day=*": rf"\.{ROWS}\.{RANDOM}",
    "quarantine": rf"\.{TABLES}\.{RANDOM}",
    "quarantine/day=*": rf"\.{ROWS}\.{RANDOM}",
    "ingest": rf"\.{DAY_FILE}\.{RANDOM}",
    "truth": rf"\.{DAY_FILE}\.{RANDOM}",
    "features/*": rf"\.({DAY_FILE}|{BUCKET})\.{RANDOM}",
    "state/*": rf"\.({BUCKET}|posts\.parquet)\.{RANDOM}",
    "state/dropped/day=*": rf"\.{BUCKET}\.{RANDOM}",
    "ledger": rf"\.{LEDGERS}\.{RANDOM}",
    "feast": rf"\.(feature_store\.yaml|definitions\.py)\.{RANDOM}",
    "sequences": rf"\.(train|eval)-{DAY}\.{RANDOM}",
    "runs/*": rf"\.{RECORDS}\.{RANDOM}|\.{WHOLE}\.new-{RANDOM}",
    "runs/*/checkpoints/*": rf"\.step-\d+\.new-{RANDOM}",
}
"""By place, what a step that holds the root's lock writes there on the way."""

UNLOCKED = {
    "runs/*": rf"\.report\.html\.{RANDOM}",
    "requests/day=*": r"\.\d+-\d+-\d+\.arrow",
}
"""The same of those who take no lock, and may be at it now."""
AT_IT_SECONDS = 3_600.0
"""How long one of those may take."""


def leftovers(root: Path) -> Iterator[Path]:
    """The files and folders that nobody will finish; the root's lock is held, so no step is on."""
    for place, pattern in PLACES.items():
        yield from _matching(root, place, pattern)
    young = time.time() - AT_IT_SECONDS
    for place, pattern in UNLOCKED.items():
        yield from (p for p in _matching(root, place, pattern) if p.stat().st_mtime < young)


def _matching(root: Path, place: str, pattern: str) -> Iterator[Path]:
    folders = [root] if place == "." else sorted(root.glob(place))
    for folder in folders:
        yield from sorted(p for p in folder.glob(".*") if re.fullmatch(pattern, p.name))
