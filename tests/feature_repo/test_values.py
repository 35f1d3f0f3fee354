# SPDX-License-Identifier: Apache-2.0
"""Which values a feature may have, at each limit and its two neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from feature_repo.spec import Binary, Categorical, Embedding, HashedId, Kind, Numeric
from feature_repo.values import fault, illegal

INF, NAN = np.inf, np.nan
CASES: list[tuple[Kind, str, list[Any], list[bool], str]] = [
    (
        HashedId(table="post", buckets=4, dim=2),
        "int64",
        [-(2**63), -2, -1, 0, 4, 2**63 - 1],
        [True, True, False, False, False, False],
        "is below -1",
    ),
    (
        Categorical(cardinality=4),
        "int32",
        [-(2**31), -2, -1, 0, 3, 4, 5, 2**31 - 1],
        [True, True, False, False, False, True, True, True],
        "is not in [-1, 4)",
    ),
    (
        Binary(),
        "int8",
        [-128, -2, -1, 0, 1, 2, 127],
        [True, True, False, False, False, True, True],
        "is not -1, 0 or 1",
    ),
    (
        Numeric(),
        "float32",
        [-INF, -1e30, 0.0, NAN, 1e30, INF],
        [True, False, False, False, False, True],
        "is infinite",
    ),
    (Numeric(transform="log1p"), "int32", [-1, 0, 2**31 - 1], [False] * 3, "is infinite"),
    (
        Embedding(dim=2),
        "float16",
        [[NAN, 0], [0, NAN], [0, 0], [-INF, 1], [65504, -65504], [1, INF]],
        [True, True, False, True, False, True],
        "is not finite",
    ),
]


@pytest.mark.parametrize(
    ("kind", "dtype", "values", "wrong", "words"),
    CASES,
    ids=[f"{type(c[0]).__name__}-{c[1]}" for c in CASES],
)
def test_the_limits_of_each_kind(
    kind: Kind, dtype: str, values: list[Any], wrong: list[bool], words: str
) -> None:
    got = illegal(kind, np.array(values, dtype))
    assert got.dtype == np.bool_
    assert got.tolist() == wrong
    assert fault(kind) == words
    assert illegal(kind, np.array(values, dtype)[:0]).shape == (0,)
