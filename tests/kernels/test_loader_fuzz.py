# SPDX-License-Identifier: Apache-2.0
"""Damaged shards without checksums: one ValueError that names the file, or sound columns."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from components.data import shard_format
from feature_repo.specs import KUAIRAND
from kernels.loader import Loader, LoaderConfig, Packed
from kernels.loader.dispatch import Implementation
from kernels.loader.native import available
from tests.fuzz import mutations
from tests.shard_builders import random_lengths, write_shards

FORMAT = shard_format(KUAIRAND)
CONFIG = LoaderConfig(batch=7, session_shuffle=True, limit=5, prefetch=0, threads=2)
needs_native = pytest.mark.skipif(available()[0] is None, reason="no compiled loader")
IMPLEMENTATIONS = ["numpy", pytest.param("native", marks=needs_native)]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("compression", ["lz4", None])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_damaged_shard_is_an_error_that_names_it_or_sound(
    tmp_path: Path, seed: int, compression: str | None, implementation: Implementation
) -> None:
    """Without compression the buffers are the file's own bytes: offsets and values are damaged."""
    (path,) = write_shards(tmp_path, KUAIRAND, random_lengths(20), shards=1, seed=seed)
    if compression is None:
        table = pa.ipc.open_file(str(path)).read_all()
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
        del table
    config = replace(CONFIG, implementation=implementation)
    whole, messages = path.read_bytes(), []
    for number, damaged in enumerate(mutations(whole, 150, random.Random(seed))):
        damaged_path = tmp_path / f"damaged-{number}.arrow"
        damaged_path.write_bytes(damaged)
        try:
            batches = list(Loader([damaged_path], FORMAT, config).epoch(0))
        except ValueError as error:
            messages.append((str(damaged_path), str(error)))
            continue
        for batch in batches:
            assert_sound(batch)
    assert len(messages) > 10
    assert all(path in m and "\n" not in m for path, m in messages)


def assert_sound(batch: Packed) -> None:
    total = batch.num_impressions
    assert all(len(values) == total for values in batch.columns.values())
    place = np.arange(total) - np.repeat(batch.cu_seqlens[:-1], batch.lengths_S)
    assert ((batch.columns["known"] >= 0) & (batch.columns["known"] <= place)).all()
    assert len(batch.context_RC) == batch.cu_targets[-1]
