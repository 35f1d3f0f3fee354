# SPDX-License-Identifier: Apache-2.0
"""A batch goes to a device whole: every tensor of it, and what is absent stays absent."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from model.batch import RankBatch, TrainBatch
from tests.builders import TINY, make_rank_batch, make_train_batch
from tests.model.variants import timed_rank_batch


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Every tensor of a batch, at any depth."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from value.values()
    elif value is not None:
        for field in dataclasses.fields(value):
            yield from tensors_of(getattr(value, field.name))


def same(got: Any, want: Any) -> bool:
    pairs = zip(tensors_of(got), tensors_of(want), strict=True)
    return all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)


def test_every_tensor_goes_to_the_device() -> None:
    for batch in (make_train_batch(TINY, 1, [3, 0]), timed_rank_batch(1, [3, 0], [2, 1])):
        moved = batch.to("meta")
        assert type(moved) is type(batch)
        assert {tensor.device.type for tensor in tensors_of(moved)} == {"meta"}
        assert {tensor.device.type for tensor in tensors_of(batch)} == {"cpu"}
        assert same(moved, batch)


def test_on_the_same_device_nothing_is_copied() -> None:
    batch: TrainBatch = make_train_batch(TINY, 1, [3])
    pairs = zip(tensors_of(batch.to("cpu")), tensors_of(batch), strict=True)
    assert all(a.data_ptr() == b.data_ptr() for a, b in pairs)


def test_absent_times_stay_absent() -> None:
    moved: RankBatch = make_rank_batch(TINY, 1, [3], [2]).to("meta")
    assert moved.time_N is None
    assert moved.history.time_M is None


def test_impressions_are_counted_over_all_sequences() -> None:
    assert make_train_batch(TINY, 1, [3, 0, 4]).impressions.num_impressions == 7
    assert make_train_batch(TINY, 1, []).impressions.num_impressions == 0
