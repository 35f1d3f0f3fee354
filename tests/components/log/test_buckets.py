# SPDX-License-Identifier: Apache-2.0
"""Keys by bucket, in memory and put aside in files."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.log import buckets as module
from components.log.buckets import bucket_numbers, deal, dealt

KEYS = ("member_id", "actor_id")


def random_rows(seed: int, rows: int = 200) -> pa.Table:
    """Rows whose keys repeat."""
    random = np.random.default_rng(seed)
    ids = {name: random.integers(-3, 40, rows) for name in KEYS}
    return pa.table({**ids, "place": np.arange(rows)})


@given(seed=st.integers(0, 2**32), buckets=st.integers(1, 9))
@settings(deadline=None)
def test_every_row_is_dealt_once_and_a_key_to_one_bucket(seed, buckets):
    rows = random_rows(seed)
    shares = [*deal(rows, KEYS, buckets)]
    assert len(shares) == buckets
    assert sorted(pa.concat_tables(shares)["place"].to_pylist()) == list(range(rows.num_rows))
    for number, share in enumerate(shares):
        assert share["place"].to_pylist() == sorted(share["place"].to_pylist())
        assert set(bucket_numbers(share, KEYS, buckets)) <= {number}


@given(seed=st.integers(0, 2**32), limit=st.sampled_from([1, 50, 10**6]))
@settings(deadline=None, max_examples=20)
def test_rows_put_aside_are_those_that_are_held(seed, limit):
    rows, buckets = random_rows(seed), 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_IN_MEMORY", limit)
        with dealt(rows.to_batches(max_chunksize=40), rows.schema, KEYS, buckets) as shares:
            for number, share in enumerate(deal(rows, KEYS, buckets)):
                assert shares.bucket(number).equals(share)


def test_a_hash_that_moves_would_lose_every_state():
    keys = pa.table({"member_id": [0, 1, 2, -1, 2**63 - 1]})
    assert bucket_numbers(keys, ("member_id",), 16).tolist() == [5, 3, 11, 1, 3]
    with dealt([], keys.schema, ("member_id",), 2) as none:
        assert none.bucket(1).num_rows == 0
