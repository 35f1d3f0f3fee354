# SPDX-License-Identifier: Apache-2.0
"""A folder of shards is whole or not there, its files short enough, its counts true."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.training import shards as module
from components.training.data import evaluation_batches
from components.training.shards import BATCH_ROWS, SHARD_ROWS, ShardCounts, write_shards
from components.training.windows import NO_LOSS
from feature_repo.specs import KUAIRAND
from kernels.loader import AUXILIARY, TARGET
from kernels.loader.checksums import file_checksum, recorded_checksum
from tests.shard_builders import shard_batch

METADATA = {"spec_hash": KUAIRAND.hash, "freshness": "day", "as_of_ms": "0"}


def batch(losses: list[list[int]], first: int = 0) -> pa.RecordBatch:
    """Sequences of these losses, numbered from `first` on."""
    members = pa.array(range(first, first + len(losses)), pa.int64())
    return pa.record_batch({"member_id": members, "loss": pa.array(losses, pa.list_(pa.int8()))})


def members(folder: Path) -> list[list[int]]:
    """The members of each file, in the order of the files' names."""
    files = sorted(folder.glob("*.arrow"))
    return [pa.ipc.open_file(file).read_all()["member_id"].to_pylist() for file in files]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- files and counts


def test_what_is_written_is_counted_by_what_it_is_in_training(tmp_path: Path) -> None:
    with write_shards(tmp_path / "shards", METADATA) as shards:
        assert shards.counts == ShardCounts()
        shards.write(batch([[0, TARGET, TARGET], [AUXILIARY]]))
        assert shards.counts == ShardCounts(shards=1, sequences=2, targets=2, auxiliary=1)
        shards.write(batch([[0], [], [TARGET, AUXILIARY, AUXILIARY, 0]], first=2))
    assert shards.counts == ShardCounts(shards=1, sequences=5, targets=3, auxiliary=3)
    assert members(tmp_path / "shards") == [[0, 1, 2, 3, 4]]


def test_limits_and_codes_are_those_of_the_shards_that_there_are() -> None:
    """The limit of a batch is what its writers keep to."""
    assert (BATCH_ROWS, SHARD_ROWS) == (256, 4_096)
    assert (NO_LOSS, TARGET, AUXILIARY) == (0, 1, 2)


@pytest.mark.parametrize(
    ("sizes", "files"),
    [
        ([10], [10]),
        ([4, 6], [10]),
        ([4, 6, 1], [10, 1]),
        ([4, 7], [4, 7]),
        ([9, 2, 8, 1], [9, 10, 1]),
        ([11], [11]),
        ([3, 25, 3], [3, 25, 3]),
        ([0, 10, 0], [10]),
    ],
)
def test_a_file_takes_batches_while_they_fit_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int], files: list[int]
) -> None:
    """Also a batch that is longer than a file may be; it has one to itself."""
    monkeypatch.setattr(module, "SHARD_ROWS", 10)
    with write_shards(tmp_path / "shards", METADATA) as shards:
        for size in sizes:
            shards.write(batch([[TARGET]] * size))
    assert [len(file) for file in members(tmp_path / "shards")] == files
    assert shards.counts == ShardCounts(len(files), sum(sizes), sum(sizes), 0)
    arrows = [f"{number:05d}.arrow" for number in range(len(files))]
    assert names(tmp_path / "shards") == [*arrows, "checksums.json"]


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 9), max_size=12),
    limit=st.integers(1, 12),
    seed=st.integers(0, 2**16),
)
def test_every_sequence_is_in_one_file_in_the_order_it_came(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], limit: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    losses = [[rng.integers(0, 3, rng.integers(0, 4)).tolist() for _ in range(n)] for n in sizes]
    folder = tmp_path_factory.mktemp("run") / "shards"
    first = 0
    with pytest.MonkeyPatch.context() as patch, write_shards(folder, METADATA) as shards:
        patch.setattr(module, "SHARD_ROWS", limit)
        for part in losses:
            shards.write(batch(part, first))
            first += len(part)
    files = members(folder)
    assert [member for file in files for member in file] == list(range(first))
    assert all(len(file) <= max(limit, *sizes) for file in files)
    flat = [code for part in losses for sequence in part for code in sequence]
    expected = ShardCounts(len(files), first, flat.count(TARGET), flat.count(AUXILIARY))
    assert shards.counts == expected


def test_every_file_says_what_it_was_made_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not what its batches say, which are often those of another folder."""
    monkeypatch.setattr(module, "SHARD_ROWS", 1)
    with write_shards(tmp_path / "shards", METADATA) as shards:
        for number in range(2):
            other = batch([[TARGET]], number).replace_schema_metadata({"freshness": "immediate"})
            shards.write(other)
    files = sorted((tmp_path / "shards").glob("*.arrow"))
    wanted = {name.encode(): value.encode() for name, value in METADATA.items()}
    assert [pa.ipc.open_file(file).schema.metadata for file in files] == [wanted, wanted]
    assert [recorded_checksum(file) for file in files] == [file_checksum(f) for f in files]


# --- whole or not at all


def test_a_folder_takes_the_place_of_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD_ROWS", 1)
    folder = tmp_path / "deep" / "shards"
    for count in (3, 1):
        with write_shards(folder, METADATA) as shards:
            shards.write(batch([[TARGET]], 7))
            for number in range(1, count):
                shards.write(batch([[TARGET]], number))
    assert members(folder) == [[7]]
    assert names(folder) == ["00000.arrow", "checksums.json"]
    assert names(folder.parent) == ["shards"]
    assert folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [False, True])
def test_a_writer_that_fails_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException], before: bool
) -> None:
    folder = tmp_path / "shards"
    if before:
        with write_shards(folder, METADATA) as shards:
            shards.write(batch([[TARGET]], 7))

    def fail() -> None:
        with write_shards(folder, METADATA) as shards:
            shards.write(batch([[TARGET]], 8))
            assert folder.exists() == before
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == (["shards"] if before else [])
    if before:
        assert members(folder) == [[7]]


def test_a_disk_that_fails_at_the_end_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shards"
    with write_shards(folder, METADATA) as shards:
        shards.write(batch([[TARGET]], 7))

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_checksums", full)
    with pytest.raises(OSError, match="No space left"), write_shards(folder, METADATA) as shards:
        shards.write(batch([[TARGET]], 8))
    assert members(folder) == [[7]]
    assert names(tmp_path) == ["shards"]


# --- nothing, and damage


def test_a_folder_of_no_sequences_is_written_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    with write_shards(folder, METADATA) as shards:
        pass
    assert shards.counts == ShardCounts()
    assert [p.name for p in folder.iterdir()] == ["checksums.json"]
    with pytest.raises(ValueError, match=r"there are no sequences in"):
        list(evaluation_batches(folder, KUAIRAND))


def test_a_record_batch_without_a_row_is_written_and_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    some = shard_batch(KUAIRAND, np.array([4, 2]), rng, 1)
    with write_shards(tmp_path / "shards", METADATA) as shards:
        for part in (some.slice(0, 0), some, some.slice(2, 0)):
            shards.write(part)
    assert shards.counts == ShardCounts(shards=1, sequences=2, targets=4, auxiliary=2)
    batches = list(evaluation_batches(tmp_path / "shards", KUAIRAND))
    assert [packed.num_sequences for _, packed in batches] == [2]


def test_the_shards_of_a_step_are_checked_when_they_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    made = shard_batch(KUAIRAND, np.array([4, 7]), np.random.default_rng(0), 1)
    with write_shards(folder, METADATA) as shards:
        shards.write(made)
    (path,) = folder.glob("*.arrow")
    assert len(list(evaluation_batches(folder, KUAIRAND))) == 1
    with path.open("r+b") as file:
        file.seek(6)
        file.write(b"x")  # padding that no reader looks at
    with pytest.raises(ValueError, match=r"00000\.arrow: is damaged.*build the sequences again"):
        list(evaluation_batches(folder, KUAIRAND))
