# SPDX-License-Identifier: Apache-2.0
"""Writes a folder of shards as one thing: it appears whole, or the folder before it stays.

It knows the Arrow file format and nothing of what is in a row but the loss it counts.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pyarrow as pa

from kernels.loader import AUXILIARY, TARGET, write_checksums

BATCH_ROWS = 256
"""The most rows of a record batch; a sequence of embeddings is large."""

SHARD_ROWS = 4_096
"""The most rows of a file, unless its first batch alone has more."""

OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass
class ShardCounts:
    """What was written: files, sequences, rows with context and loss, and auxiliary rows."""

    shards: int = 0
    sequences: int = 0
    targets: int = 0
    auxiliary: int = 0


class ShardWriter:
    """Record batches of sequences in, files of at most 4096 sequences out."""

    def __init__(self, folder: Path, metadata: Mapping[str, str]) -> None:
        self.folder = folder
        self.metadata = dict(metadata)
        self.counts = ShardCounts()
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self._filled = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Appends sequences."""
        batch = batch.replace_schema_metadata(self.metadata)
        if self._writer is None or self._filled + batch.num_rows > SHARD_ROWS:
            self._open(batch.schema)
        assert self._writer is not None
        self._writer.write_batch(batch)
        self._filled += batch.num_rows
        self._count(batch)

    def _count(self, batch: pa.RecordBatch) -> None:
        rows = np.bincount(batch.column("loss").flatten().to_numpy(), minlength=AUXILIARY + 1)
        self.counts.sequences += batch.num_rows
        self.counts.targets += int(rows[TARGET])
        self.counts.auxiliary += int(rows[AUXILIARY])

    def close(self) -> None:
        """Ends the file that is open."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, schema: pa.Schema) -> None:
        self.close()
        path = self.folder / f"{self.counts.shards:05d}.arrow"
        self._writer = pa.ipc.new_file(path, schema, options=OPTIONS)
        self.counts.shards += 1
        self._filled = 0


@contextmanager
def write_shards(folder: Path, metadata: Mapping[str, str]) -> Iterator[ShardWriter]:
    """A writer into `folder`, which is replaced when the block ends well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    writer = ShardWriter(temporary, metadata)
    try:
        yield writer
        writer.close()
        write_checksums(temporary)
        temporary.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
