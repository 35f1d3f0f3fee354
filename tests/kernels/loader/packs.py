# SPDX-License-Identifier: Apache-2.0
"""What the loader's tests share: packs as rows, the oracle's rows, and shards written anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from components.training.data import shard_format
from feature_repo.specs import KUAIRAND
from kernels.loader import Packed
from kernels.loader.native import available

FORMAT = shard_format(KUAIRAND)
needs_native = pytest.mark.skipif(
    available()[0] is None, reason="no compiled loader; covered by NumPy's"
)
implementations = pytest.mark.parametrize(
    "implementation", ["numpy", pytest.param("native", marks=needs_native)]
)


def rows_of(packed: Packed) -> list[dict]:
    """The pack as one dictionary of lists a sequence."""
    ends = packed.cu_seqlens.tolist()
    targets = packed.cu_targets.tolist()
    return [
        {
            **{n: a[ends[i] : ends[i + 1]].tolist() for n, a in packed.columns.items()},
            "context": packed.context_RC[targets[i] : targets[i + 1]].ravel().tolist(),
            **{n: int(a[i]) for n, a in packed.keys.items()},
        }
        for i in range(packed.num_sequences)
    ]


def stored_rows(path: Path, names: list[str]) -> list[dict]:
    """The oracle: the shard's rows as pyarrow reads them."""
    return pa.ipc.open_file(str(path)).read_all().select(names).to_pylist()


def assert_same_rows(ours: list[dict], theirs: list[dict]) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for name, value in mine.items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)


def assert_same_bits(ours: Packed, theirs: Packed) -> None:
    """Equal to the bit, dtypes and the order of columns included."""
    assert list(ours.columns) == list(theirs.columns)
    pairs = [(a, theirs.columns[n]) for n, a in ours.columns.items()]
    pairs += [(a, theirs.keys[n]) for n, a in ours.keys.items()]
    pairs += [(getattr(ours, n), getattr(theirs, n)) for n in ("cu_seqlens", "sequence_S")]
    pairs += [(ours.context_RC, theirs.context_RC)]
    for mine, other in pairs:
        assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
        assert mine.tobytes() == other.tobytes()


def rewrite(path: Path, table: pa.Table) -> Path:
    """The table as a shard, uncompressed."""
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    return path


def rewritten(path: Path, to: Path, batches: Sequence[pa.RecordBatch]) -> Path:
    """A shard of the same schema with other record batches."""
    with pa.ipc.new_file(str(to), pa.ipc.open_file(str(path)).schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return to
