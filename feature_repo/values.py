# SPDX-License-Identifier: Apache-2.0
"""Which values a feature or a time may have: the rule by which ingest refuses and serving flags.

Unknown (-1) and missing (NaN of a numeric) are legal: a feature has a declared default for them.
This module knows nothing of tables or requests.
"""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.kinds import UNKNOWN, Binary, Categorical, Embedding, HashedId, Kind

SANE_MS = (946_684_800_000, 4_102_444_800_000)
"""From the first millisecond of the year 2000 (UTC) to before the first of 2100; a time outside is
no time of a feed, or is written in another unit.
"""
YEAR_10000 = 253_402_300_800
"""Its first second (UTC): there is no date from then on."""
MILLISECONDS = {
    "seconds": Fraction(1_000),
    "microseconds": Fraction(1, 1_000),
    "nanoseconds": Fraction(1, 1_000_000),
}
"""Of each other unit that times are written in."""


def illegal(kind: Kind, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which values `[N]` (`[N, E]` of an embedding) a feature of this kind may not have, `[N]`."""
    if isinstance(kind, HashedId):
        return np.asarray(values < UNKNOWN)
    if isinstance(kind, Categorical):
        return np.asarray((values < UNKNOWN) | (values >= kind.cardinality))
    if isinstance(kind, Binary):
        return np.asarray((values < UNKNOWN) | (values > 1))
    if isinstance(kind, Embedding):
        return np.asarray(~np.isfinite(values).all(axis=1))
    return np.asarray(np.isinf(values))


def fault(kind: Kind) -> str:
    """What an illegal value of this kind is, to be read after the feature's name."""
    if isinstance(kind, HashedId):
        return f"is below {UNKNOWN}"
    if isinstance(kind, Categorical):
        return f"is not in [{UNKNOWN}, {kind.cardinality})"
    if isinstance(kind, Binary):
        return f"is not {UNKNOWN}, 0 or 1"
    return "is not finite" if isinstance(kind, Embedding) else "is infinite"


def insane(time_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which times `[N]`, ms since the epoch, are outside of `SANE_MS`."""
    times = np.asarray(time_ms)
    return np.asarray((times < SANE_MS[0]) | (times >= SANE_MS[1]))


def unit_of(time: int) -> str:
    """The other unit in which a time would be sane, "" if in none."""
    for unit, milliseconds in MILLISECONDS.items():
        if SANE_MS[0] <= int(time) * milliseconds < SANE_MS[1]:
            return unit
    return ""


def day_of(time: int, unit: str = "milliseconds") -> str:
    """The day (UTC) of a time in that unit, YYYY-MM-DD, as a sentence may show it."""
    seconds = int(time) * MILLISECONDS.get(unit, Fraction(1)) // 1_000
    if not 0 <= seconds < YEAR_10000:
        return "before 1970" if seconds < 0 else "after the year 9999"
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
