# SPDX-License-Identifier: Apache-2.0
"""Which values a feature may have: the one rule by which ingest refuses and serving flags.

Unknown (-1) and missing (NaN of a numeric) are legal: a feature has a declared default for them.
This module knows nothing of tables or requests.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.spec import UNKNOWN, Binary, Categorical, Embedding, HashedId, Kind


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
