# SPDX-License-Identifier: Apache-2.0
"""Damaged shards without checksums: one ValueError that names the file, or sound columns."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from components.data import shard_format
from feature_repo.specs import KUAIRAND
from kernels.loader import Loader, LoaderConfig
from tests.fuzz import mutations
from tests.shard_builders import random_lengths, write_shards

FORMAT = shard_format(KUAIRAND)
CONFIG = LoaderConfig(batch=7, session_shuffle=True, limit=5, prefetch=0)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_damaged_shard_is_an_error_that_names_it_or_sound(tmp_path: Path, seed: int) -> None:
    (path,) = write_shards(tmp_path, KUAIRAND, random_lengths(20), shards=1, seed=seed)
    whole, messages = path.read_bytes(), []
    damaged_path = tmp_path / "damaged.arrow"
    for damaged in mutations(whole, 150, random.Random(seed)):
        damaged_path.write_bytes(damaged)
        try:
            batches = list(Loader([damaged_path], FORMAT, CONFIG).epoch(0))
        except ValueError as error:
            messages.append(str(error))
            continue
        for batch in batches:
            total = batch.num_impressions
            assert all(len(values) == total for values in batch.columns.values())
            place = np.arange(total) - np.repeat(batch.cu_seqlens[:-1], batch.lengths_S)
            assert ((batch.columns["known"] >= 0) & (batch.columns["known"] <= place)).all()
            assert len(batch.context_RC) == batch.cu_targets[-1]
    assert len(messages) > 30
    assert all(str(damaged_path) in m and "\n" not in m for m in messages)
