# SPDX-License-Identifier: Apache-2.0
"""What a flipped bit would pass for is told by the file's checksum, which is zlib's."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kernels.loader import inspect_shard, native, read_shard, write_checksums
from kernels.loader.checksums import CHUNK_BYTES, checksum_of, file_checksum, recorded_checksum
from tests.kernels.loader.packs import FORMAT, needs_native, rewrite

MODULE, _REASON = native.available()


@needs_native
@pytest.mark.parametrize("size", [0, 1, 15, 63, 64, 65, 127, 128, 1000, 4099])
def test_the_checksum_is_zlibs(size: int) -> None:
    assert MODULE is not None
    if not MODULE.crc32_usable():
        pytest.skip("the processor has no carry-less product; covered by zlib's")
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    for value in (0, 1, 0xFFFFFFFF, 0x12345678):
        assert MODULE.crc32(data, value) == zlib.crc32(data, value)
        assert checksum_of(data[1:], value) == zlib.crc32(data[1:], value)


def test_damage_that_keeps_the_structure_is_found_by_the_checksum(
    paths: list[Path], tmp_path: Path
) -> None:
    """Uncompressed, a flipped bit of a label is a label; only the checksum tells."""
    path = rewrite(tmp_path / "part.arrow", pa.ipc.open_file(str(paths[0])).read_all())
    column = pa.ipc.open_file(str(path)).read_all().column("click").chunk(0).values
    labels = column.buffers()[1].to_pybytes()[: len(column)]
    content = bytearray(path.read_bytes())
    content[content.index(labels)] ^= 1
    whole = path.read_bytes()
    path.write_bytes(content)
    assert read_shard(path, FORMAT).columns["click"][0] in (0, 1)
    path.write_bytes(whole)
    write_checksums(tmp_path)
    info = inspect_shard(path, FORMAT)
    read_shard(path, FORMAT)
    path.write_bytes(content)
    assert inspect_shard(path, FORMAT) == info, "what is recorded names the shard"
    with pytest.raises(ValueError, match=r"part\.arrow: is damaged or.*build the sequences again"):
        read_shard(path, FORMAT)
    other = Path(shutil.copy(paths[1], tmp_path / "other.arrow"))
    for harm in ("[]", "{", '{"part.arrow": "x"}'):
        (tmp_path / "checksums.json").write_text(harm)
        with pytest.raises(ValueError, match=r"no checksum of other\.arrow; build the sequences"):
            read_shard(other, FORMAT)


def test_without_a_record_a_shard_is_named_by_its_own_bytes(
    paths: list[Path], tmp_path: Path
) -> None:
    path = Path(shutil.copy(paths[0], tmp_path / "part.arrow"))
    info = inspect_shard(path, FORMAT)
    assert info.checksum == zlib.crc32(path.read_bytes())
    write_checksums(tmp_path)
    assert inspect_shard(path, FORMAT) == info


def test_a_folders_record_has_every_shard_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_bytes(b"one")
    (tmp_path / "b.arrow").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"two")
    assert recorded_checksum(tmp_path / "a.arrow") is None
    write_checksums(tmp_path)
    recorded = json.loads((tmp_path / "checksums.json").read_text())
    assert recorded == {"a.arrow": zlib.crc32(b"one"), "b.arrow": 0}
    assert recorded_checksum(tmp_path / "a.arrow") == zlib.crc32(b"one")


def test_a_file_longer_than_a_chunk_has_one_checksum(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(2 * CHUNK_BYTES + 3)
    (tmp_path / "long.arrow").write_bytes(content)
    assert file_checksum(tmp_path / "long.arrow") == zlib.crc32(content) == checksum_of(content)
