# SPDX-License-Identifier: Apache-2.0
"""Keys of several columns sort as their numbers do, and a day's keys find their place."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from components.features.key_sums import Merge, key_codes

IDS = st.integers(-(2**63), 2**63 - 1)


@given(rows=st.lists(st.tuples(IDS, IDS), max_size=30))
def test_codes_sort_as_the_keys_do(rows):
    first, second = ([row[i] for row in rows] for i in (0, 1))
    kind = pa.int64()
    table = pa.table({"a": pa.array(first, kind), "b": pa.array(second, kind)})
    order = np.argsort(key_codes(table, ("a", "b")), kind="stable")
    assert [rows[i] for i in order] == sorted(rows)
    assert [first[i] for i in np.argsort(key_codes(table, ("a",)), kind="stable")] == sorted(first)
    assert len(set(key_codes(table, ("a", "b")).tolist())) == len(set(rows))


@given(old=st.sets(st.integers(0, 20)), new=st.sets(st.integers(0, 20)))
def test_new_keys_come_between_the_old_ones(old, new):
    there, keys = (np.array(sorted(values), np.int64) for values in (old, new))
    place = np.searchsorted(there, keys)
    known = np.isin(keys, there)
    merge = Merge(place, known)
    assert merge.put(there, keys).tolist() == sorted(old | new)
    amounts = there * 10
    assert merge.before(amounts).tolist() == [k * 10 if k in old else 0 for k in sorted(new)]
    merged = merge.put(amounts, merge.before(amounts) + 1)
    assert merged.tolist() == [(k * 10 if k in old else 0) + (k in new) for k in sorted(old | new)]
