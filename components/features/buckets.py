# SPDX-License-Identifier: Apache-2.0
"""Which bucket a key belongs to, and rows dealt out to buckets.

A bucket is a share of the keys by a hash of them: what one step of the day's state holds in memory
at once. The hash is of the values alone, so every engine and every process deals alike. It knows no
file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from components.log.columns import Ints, column
from components.log.sessions import mix

SALT = 4
"""Tells this hash from those of sessions."""


def bucket_numbers(rows: pa.Table | pa.RecordBatch, keys: Sequence[str], buckets: int) -> Ints:
    """The bucket of each row by its key columns, int64 `[N]` in [0, buckets)."""
    if buckets == 1 or not rows.num_rows:
        return np.zeros(rows.num_rows, np.int64)
    return mix(SALT, *(column(rows, key) for key in keys)) % buckets


def deal(rows: pa.Table, keys: Sequence[str], buckets: int) -> Iterator[pa.Table]:
    """The rows of each bucket in turn, in the order they had."""
    if buckets == 1:
        yield rows
        return
    number = bucket_numbers(rows, keys, buckets)
    order = np.argsort(number, kind="stable")
    ends = np.cumsum(np.bincount(number, minlength=buckets))
    for first, end in zip(np.append(0, ends[:-1]), ends, strict=True):
        yield rows.take(pa.array(order[first:end]))
