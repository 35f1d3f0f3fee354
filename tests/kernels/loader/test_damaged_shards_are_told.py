# SPDX-License-Identifier: Apache-2.0
"""Damaged shards without checksums: one ValueError that names the file, or sound columns."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.specs import KUAIRAND
from kernels.loader import Loader, LoaderConfig, Packed
from kernels.loader.dispatch import Implementation
from kernels.loader.native import NativePacker, NativeShard, available, column_bytes
from kernels.loader.reference import Shuffle
from kernels.loader.shards import read_parts
from tests.fuzz import mutations
from tests.kernels.loader.packs import FORMAT, implementations, needs_native, rewrite
from tests.shard_builders import random_lengths, write_shards

CONFIG = LoaderConfig(batch=7, session_shuffle=True, limit=5, prefetch=0, threads=2)


@implementations
@pytest.mark.parametrize("compression", ["lz4", None])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_damaged_shard_is_an_error_that_names_it_or_sound(
    tmp_path: Path, seed: int, compression: str | None, implementation: Implementation
) -> None:
    """Without compression the buffers are the file's own bytes: offsets and values are damaged."""
    (path,) = write_shards(tmp_path, KUAIRAND, random_lengths(20), shards=1, seed=seed)
    if compression is None:
        rewrite(path, pa.ipc.open_file(path.read_bytes()).read_all())
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


INDICES = ("starts", "context_starts", "known", "loss", "context")


@needs_native
@pytest.mark.parametrize("seed", range(4))
def test_damaged_buffers_at_the_door_are_an_error_or_sound(tmp_path: Path, seed: int) -> None:
    """What lies beneath Arrow's own checks: any bytes in the place of offsets and codes."""
    (path,) = write_shards(tmp_path, KUAIRAND, random_lengths(20), shards=1, seed=seed)
    (part,) = read_parts(path, FORMAT)
    packer, rng, refused = NativePacker(available()[0], threads=2), random.Random(seed), 0
    names = [name for name in part.columns if name != "known"]
    widths = [part.columns[name].dtype.itemsize for name in names]
    for _ in range(300):
        shard = packer.module.Shard(widths, FORMAT.context_width, 0)
        whole = {name: getattr(part, name, part.columns.get(name)) for name in INDICES}
        chosen = rng.choice(INDICES)
        (harmed,) = mutations(whole[chosen].tobytes(), 1, rng)
        size = len(harmed) // whole[chosen].itemsize * whole[chosen].itemsize
        damaged = whole | {chosen: np.frombuffer(harmed[:size], whole[chosen].dtype)}
        session = part.columns["session_id"]
        try:
            shard.add(
                columns=[column_bytes(part.columns[n]) for n in names], session=session, **damaged
            )
        except ValueError:
            refused += 1
            continue
        held = NativeShard(
            held=shard,
            columns={n: (part.columns[n].dtype, ()) for n in names},
            context_width=FORMAT.context_width,
            lengths_S=np.diff(damaged["starts"]),
            keys={},
        )
        rows = np.arange(len(held.lengths_S))
        shuffle = Shuffle(session="session_id", seed=seed, epoch=0, trade_slots=bool(seed % 2))
        assert_sound(packer.gather([(held, rows)], rows, 5, shuffle))
    assert 30 < refused < 300
