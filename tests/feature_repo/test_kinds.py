# SPDX-License-Identifier: Apache-2.0
"""A kind lies in Arrow and in a packed record in one way, and a missing value has its default."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.kinds import (
    UNKNOWN,
    Binary,
    Categorical,
    Embedding,
    Feature,
    HashedId,
    Kind,
    Numeric,
    Task,
    View,
    arrow_field,
    arrow_type,
    default_value,
    numpy_field,
)
from feature_repo.values import illegal

KINDS = st.one_of(
    st.builds(HashedId, table=st.just("post"), buckets=st.integers(1, 99), dim=st.integers(1, 9)),
    st.builds(Categorical, cardinality=st.integers(1, 99)),
    st.builds(Numeric, transform=st.sampled_from(["identity", "log1p"])),
    st.builds(Embedding, dim=st.integers(1, 9)),
    st.just(Binary()),
)
ONE_OF_EACH: tuple[Kind, ...] = (
    HashedId(table="post", buckets=4, dim=2),
    Categorical(cardinality=4),
    Numeric(),
    Embedding(dim=3),
    Binary(),
)


def feature(name: str, kind: Kind) -> Feature:
    return Feature(name=name, role="context", kind=kind, source="post")


def view(kind: str, *kinds: Kind, keys: tuple[str, ...] = ("post_id",)) -> View:
    features = tuple(feature(f"f{i}", k) for i, k in enumerate(kinds))
    return View(name="v", keys=keys, kind=kind, features=features)  # type: ignore[arg-type]


@settings(deadline=None)
@given(KINDS)
def test_a_column_and_a_record_hold_the_same_numbers(kind: Kind) -> None:
    """The same bytes too: little-endian, and as many of an embedding as it has dimensions."""
    field = arrow_field(feature("x", kind))
    assert (field.name, field.type, field.nullable) == ("x", arrow_type(kind), False)
    dtype = np.dtype([numpy_field(feature("x", kind))])
    scalar, width = field.type, 1
    if pa.types.is_fixed_size_list(scalar):
        scalar, width = scalar.value_type, scalar.list_size
    assert dtype["x"].base == np.dtype(scalar.to_pandas_dtype()).newbyteorder("<")
    assert dtype["x"].shape == ((width,) if isinstance(kind, Embedding) else ())
    assert dtype.itemsize == width * scalar.bit_width // 8


@settings(deadline=None)
@given(KINDS)
def test_a_default_is_a_legal_value(kind: Kind) -> None:
    record = view("profile", kind).default["f0"]
    assert not illegal(kind, record).any()
    unknown = {HashedId: 0, Categorical: UNKNOWN, Binary: UNKNOWN, Embedding: 0}
    assert np.array_equal(record.ravel()[0], unknown.get(type(kind), np.nan), equal_nan=True)
    assert np.array_equal(default_value(kind), record.ravel()[0], equal_nan=True)


def test_a_posts_record_says_who_made_it_and_when() -> None:
    """What a feature says already is not there twice."""
    content = view("content", *ONE_OF_EACH)
    names = content.dtype.names or ()
    assert names == ("actor_id", "root_actor_id", "created_ms", "f0", "f1", "f2", "f3", "f4")
    assert content.default["created_ms"] == UNKNOWN
    assert view("profile", *ONE_OF_EACH).dtype.names == ("f0", "f1", "f2", "f3", "f4")
    own = dataclasses.replace(
        content, features=(feature("actor_id", HashedId(table="a", buckets=2, dim=1)),)
    )
    assert sorted(own.dtype.names or ()) == ["actor_id", "created_ms", "root_actor_id"]


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.just(b""), st.integers(0, 255)), max_size=6))
def test_what_was_packed_is_unpacked_and_the_rest_has_the_default(values: list) -> None:
    pair = view("counters", Numeric(), Binary())
    size = pair.dtype.itemsize
    stored = [bytes([v]) * size if isinstance(v, int) else v for v in values]
    records, missing = pair.unpack(stored)
    assert missing.tolist() == [not isinstance(v, int) for v in values]
    for value, record in zip(stored, records, strict=True):
        assert record.tobytes() == (value or pair.default.tobytes())


@pytest.mark.parametrize("change", [-1, 1])
def test_a_record_of_another_spec_is_one_sentence(change: int) -> None:
    pair = view("counters", Numeric(), Binary())
    size = pair.dtype.itemsize
    sentence = f"view v: a stored value has {size + change} bytes, the spec expects {size}; rebuild"
    with pytest.raises(ValueError, match=sentence):
        pair.unpack([b"", bytes(size), bytes(size + change)])


def test_what_only_training_asks_tells_no_tasks_apart() -> None:
    task = Task(name="click", group="passive", prior=0.2, utility=1.0)
    assert hash(task) == hash(dataclasses.replace(task, examined=False))
    assert hash(task) != hash(dataclasses.replace(task, prior=0.3))
